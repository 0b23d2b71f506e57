"""The values in the templates that users replace by their own. The files exist."""

SOURCE = "sd_xl_base_1.0.safetensors"
FINE_TUNE = "juggernautXL_v9Rundiffusionphoto2.safetensors"
PRUNED = "SSD-1B.safetensors"
QUANTISED = "RealVisXL_V5.0_fp16.safetensors"
TURBO = "DreamShaperXL_Turbo_v2_1.safetensors"
PICTURES = "my_pictures"  # a folder in ComfyUI's input folder
LORA = "pixel-art-xl.safetensors"
PROMPT = "pixel art, a small house by a lake, trees, evening light"
NEGATIVE = "blurry, low quality"
SIZE = 1024  # the pictures that SDXL was trained on, in pixels
