"""The blocks of Stable Diffusion's UNets and of their pruned children, with each child block's true parent.

Names are those of diffusers. SSD-1B keeps blocks 0, 1, 2, 6 of ten (measured on its weights: note.mu/gcem156,
huggingface.co/furusu/SSD-1B-anime). Vega is assumed to keep 0 and 1 of ten. BK-SDM copies as its code does
(Nota-NetsPresso/BK-SDM, copy_weight_from_teacher).
"""

from collections.abc import Mapping, Sequence

Shapes = Mapping[str, tuple[int, ...]]
Blocks = dict[str, Shapes]

_CONTEXT = {"sdxl": 2048, "sd15": 768}


def transformer(width: int, context: int) -> Shapes:
    return {
        **{f"attn1.{role}": (width, width) for role in ("to_q", "to_k", "to_v", "to_out.0")},
        "attn2.to_q": (width, width),
        "attn2.to_k": (width, context),
        "attn2.to_v": (width, context),
        "attn2.to_out.0": (width, width),
        "ff.net.0.proj": (8 * width, width),
        "ff.net.2": (width, 4 * width),
    }


def resnet(into: int, out: int, time: int) -> Shapes:
    shapes = {"conv1": (out, into, 3, 3), "time_emb_proj": (out, time), "conv2": (out, out, 3, 3)}
    return shapes if into == out else {**shapes, "conv_shortcut": (out, into, 1, 1)}


def unet(
    family: str,
    down: Sequence[Sequence[int]],
    middle: int | None,
    up: Sequence[Sequence[int]],
    divisor: int = 1,
    resamplers: bool = True,
) -> Blocks:
    """A UNet's blocks. down, up: the number of transformer blocks at each resnet of each level. middle: the number in
    the middle block; None makes it a single resnet. divisor: divides every width."""
    levels = (320, 640, 1280, 1280)[: len(down)]
    widths = [width // divisor for width in levels]
    time, context = 1280 // divisor, _CONTEXT[family] // divisor
    blocks: Blocks = {"conv_in": {"conv_in": (widths[0], 4, 3, 3)}}
    skips, into = [widths[0]], widths[0]

    def add_attention(name: str, width: int, depth: int) -> None:
        if depth:
            blocks[name] = {"proj_in": (width, width), "proj_out": (width, width)}
            for index in range(depth):
                blocks[f"{name}.transformer_blocks.{index}"] = transformer(width, context)

    for level, depths in enumerate(down):
        for index, depth in enumerate(depths):
            blocks[f"down_blocks.{level}.resnets.{index}"] = resnet(into, widths[level], time)
            into = widths[level]
            add_attention(f"down_blocks.{level}.attentions.{index}", into, depth)
            skips.append(into)
        if level < len(down) - 1 and resamplers:
            blocks[f"down_blocks.{level}.downsamplers.0"] = {"conv": (into, into, 3, 3)}
            skips.append(into)
    blocks["mid_block.resnets.0"] = resnet(into, into, time)
    if middle is not None:
        add_attention("mid_block.attentions.0", into, middle)
        blocks["mid_block.resnets.1"] = resnet(into, into, time)
    for level, depths in enumerate(up):
        width = widths[-1 - level]
        for index, depth in enumerate(depths):
            blocks[f"up_blocks.{level}.resnets.{index}"] = resnet(into + skips.pop(), width, time)
            into = width
            add_attention(f"up_blocks.{level}.attentions.{index}", width, depth)
        if level < len(up) - 1 and resamplers:
            blocks[f"up_blocks.{level}.upsamplers.0"] = {"conv": (into, into, 3, 3)}
    return blocks


def sdxl(divisor: int = 1) -> Blocks:
    return unet("sdxl", [(0, 0), (2, 2), (10, 10)], 10, [(10, 10, 10), (2, 2, 2), (0, 0, 0)], divisor)


def ssd_1b(divisor: int = 1) -> Blocks:
    return unet("sdxl", [(0, 0), (2, 2), (4, 4)], None, [(4, 4, 10), (2, 1, 1), (0, 0, 0)], divisor)


def vega(divisor: int = 1) -> Blocks:
    return unet("sdxl", [(0, 0), (1, 1), (2, 2)], None, [(2, 2, 2), (1, 1, 1), (0, 0, 0)], divisor)


def sd15(divisor: int = 1) -> Blocks:
    return unet("sd15", [(1, 1), (1, 1), (1, 1), (0, 0)], 1, [(0, 0, 0), (1, 1, 1), (1, 1, 1), (1, 1, 1)], divisor)


def parents_of(
    child: Blocks, parent: Blocks, rename: Mapping[str, str], kept: Mapping[int, Sequence[int]]
) -> dict[str, str]:
    """The true parent of each child block. rename: start of a name in the child -> in the parent. kept: number of
    transformer blocks in the child's attention -> their indices in the parent, where the parent has more."""
    parents: dict[str, str] = {}
    for block in child:
        name = next((new + block[len(old) :] for old, new in rename.items() if block.startswith(old)), block)
        attention, dot, index = name.partition(".transformer_blocks.")
        if dot:
            count, before = (
                sum(name.startswith(f"{prefix}.transformer_blocks.") for name in blocks)
                for blocks, prefix in ((child, block.partition(".transformer_blocks.")[0]), (parent, attention))
            )
            if before > count:
                name = f"{attention}{dot}{kept[count][int(index)]}"
        assert name in parent, name  # noqa: S101  (the benchmark's own tables)
        parents[block] = name
    return parents


_SECOND_FROM_THIRD = {
    f"up_blocks.{level}.{part}.1": f"up_blocks.{level}.{part}.2"
    for level in range(4)
    for part in ("resnets", "attentions")
}
_ONE_LEVEL_ON = {
    **{
        f"up_blocks.{level}.{part}.{new}": f"up_blocks.{level + 1}.{part}.{old}"
        for level in range(3)
        for part in ("resnets", "attentions")
        for new, old in ((0, 0), (1, 2))
    },
    **{f"up_blocks.{level}.upsamplers": f"up_blocks.{level + 1}.upsamplers" for level in range(2)},
}


def pairs(divisor: int) -> dict[str, tuple[Blocks, Blocks, dict[str, str]]]:
    """For each published child: the parent's blocks, the child's blocks, and the true parent of each child block."""
    single, double = (1,), (1, 1)
    base_up = [(0, 0), double, double, double]
    small, large = sd15(divisor), sdxl(divisor)
    bk = {
        "BK-base": unet("sd15", [single, single, single, (0,)], 1, base_up, divisor),
        "BK-small": unet("sd15", [single, single, single, (0,)], None, base_up, divisor),
        "BK-tiny": unet("sd15", [single, single, single], None, [double, double, double], divisor),
    }
    for name in ("BK-small", "BK-tiny"):
        bk[name].pop("mid_block.resnets.0")
    kept_of_ten = {4: (0, 1, 2, 6), 2: (0, 1), 1: (0,)}
    children = {"SSD-1B": (large, ssd_1b(divisor), {}), "Vega": (large, vega(divisor), {})}
    children |= {
        name: (small, child, _ONE_LEVEL_ON if name == "BK-tiny" else _SECOND_FROM_THIRD) for name, child in bk.items()
    }
    return {
        name: (parent, child, parents_of(child, parent, rename, kept_of_ten))
        for name, (parent, child, rename) in children.items()
    }
