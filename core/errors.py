"""The errors of the pack. Each text is a sentence: what is wrong, where, what was expected and found, what to do."""


class LoraTransferError(Exception):
    """Base class of all errors that the pack raises on purpose; the user sees the text."""

    def __init_subclass__(cls) -> None:
        # ComfyUI's page shows "module.qualname: text" of an error, and the module of a pack is a path. Without a module
        # (Python leaves out "builtins") and with the pack's name as the class, the sentence comes first.
        cls.__module__, cls.__qualname__ = "builtins", "LoRA Transfer"


class UnreadableFile(LoraTransferError):
    """A file is missing, cut short, in another format, or empty."""


class ChangedFile(UnreadableFile):
    """A file changed after it was loaded."""


class UnwritableFile(LoraTransferError):
    """A file cannot be written at the requested path."""


class FolderInUse(LoraTransferError):
    """Another process is writing to the same folder."""


class UnsupportedBase(LoraTransferError):
    """A base model has layers without known names, or weights that cannot be read."""


class UnsupportedAdapter(LoraTransferError):
    """An adapter does not belong to the base, or is of an unknown kind."""


class ShapeMismatch(LoraTransferError):
    """A tensor has the wrong shape, or two tensors do not fit each other."""


class InvalidSetting(LoraTransferError):
    """A setting is out of range, or two settings contradict each other."""


class NothingToTransfer(LoraTransferError):
    """No layer can be transferred."""


class NotMeasurable(LoraTransferError):
    """The outputs of two models cannot be compared, or an adapter has no effect."""


class NotEnoughMemory(LoraTransferError):
    """A step does not fit into memory, even with everything that reduces it."""


class NoWorkers(LoraTransferError):
    """A cluster cannot be reached, has no machine for a worker, or its workers end before they do anything."""


class RefineStopped(LoraTransferError):
    """An error stopped a refinement; the text says where the best factors were saved."""
