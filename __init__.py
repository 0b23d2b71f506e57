"""ComfyUI's entry into the pack. pytest imports this file too, as a bare module: then there is nothing to offer."""

if __package__:
    from .nodes import LoraTransferExtension

    WEB_DIRECTORY = "./web"

    async def comfy_entrypoint() -> LoraTransferExtension:
        return LoraTransferExtension()
