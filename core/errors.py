"""Everything the engine refuses, as sentences: what, where, expected, found, what to do."""


class LoraTransferError(Exception):
    """Root of every refusal of this pack; its text is shown to the user as it stands."""


class UnreadableFile(LoraTransferError):
    """A file is missing, truncated, of another format, or holds nothing to work on."""


class ChangedFile(UnreadableFile):
    """A file that is not, or did not stay, as it was when it was loaded."""


class UnwritableFile(LoraTransferError):
    """A file that cannot be written where it was asked for."""


class UnsupportedBase(LoraTransferError):
    """A base model whose layers cannot be named or whose weights cannot be read."""


class UnsupportedAdapter(LoraTransferError):
    """An adapter that does not belong to the base, or whose kind is not understood."""


class ShapeMismatch(LoraTransferError):
    """Two matrices that must fit each other do not."""


class InvalidSetting(LoraTransferError):
    """A setting outside its range, or two settings that exclude each other."""


class NothingToTransfer(LoraTransferError):
    """A plan in which no layer is left to transfer."""


class NotMeasurable(LoraTransferError):
    """Two models whose outputs cannot be laid side by side, or an effect of no size."""


class NotEnoughMemory(LoraTransferError):
    """A step that does not fit into memory in any of the ways that take less."""


class RefineStopped(LoraTransferError):
    """A refinement that an error ended; the text says where its best factors were saved."""
