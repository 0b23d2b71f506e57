"""Chooses ComfyUI's device, before ComfyUI looks for one."""

import torch


def choose_device(cpu: bool) -> None:
    """Tell ComfyUI to use the processor, if asked to, or if there is no card: it would end with an error."""
    from comfy.cli_args import args

    args.cpu = cpu or not torch.cuda.is_available()
