import torch
from lora_transfer.core.library.entry import *
from lora_transfer.core.resources import Resources
from lora_transfer.nodes.host.base.from_file import base_from_file
from lora_transfer.nodes.host.library.run import *
from lora_transfer.nodes.host.library.files import find_files
from lora_transfer.nodes.host.library.settings import LibrarySettings, compare_settings_for
from tests.host.small_library import write_small_lora

def test_x(pair, tmp_path):
    for n in range(4):
        write_small_lora(tmp_path / "loras" / f"{n}.safetensors", pair.source, n, every=1+n)
    (tmp_path/"loras"/"bad.safetensors").write_bytes(b"xx")
    s, t = base_from_file(pair.source, "source"), base_from_file(pair.target, "target")
    batch = batch_of(s, t, LibrarySettings(compare_settings_for("restore_both")), Resources())
    files = find_files([str(tmp_path/"loras")])
    import time
    t0=time.time()
    with open_library(tmp_path/"out") as lib:
        for e in transfer_library(lib, lib.remaining(files, batch.job), batch):
            print(e, time.time()-t0)
    with open_library(tmp_path/"out") as lib:
        assert lib.remaining(files, batch.job) == []
