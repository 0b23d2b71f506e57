import dataclasses
import json
import math
import threading

import pytest
import torch

from lora_transfer.core.delta import LowRankDelta
from lora_transfer.core.errors import InvalidSetting
from lora_transfer.core.kinds import full
from lora_transfer.core.layers import Layer, Skipped
from lora_transfer.core.matching import match_by_name
from lora_transfer.core.methods import METHODS
from lora_transfer.core.plan import Module, TransferPlan, TransferSettings, modules_of, plan_transfer
from lora_transfer.core.reports.envelope import Identity
from lora_transfer.core.reports.transfer import similarity_report, transfer_report
from lora_transfer.core.resources import Resources
from lora_transfer.core.similarity import Comparison, compare
from lora_transfer.core.subspace import RankRule
from lora_transfer.core.transfer import Transferred, TransferTask, transfer, transfer_many
from lora_transfer.core.vectors import Vector, plan_vectors
from tests.core.bases import CountingBase, related_bases


class Job:
    """A small adapter on two related bases, ready for a transfer with any settings."""

    def __init__(
        self, drift: float = 0.2, bases: tuple[CountingBase, CountingBase] | None = None, places: bool = False
    ) -> None:
        self.source, self.target = bases or related_bases(drift, places)
        generator = torch.Generator().manual_seed(3)
        self.deltas = {
            name: LowRankDelta(
                torch.randn(layer.weight.matrix_shape[0], 2, generator=generator),
                torch.randn(2, layer.weight.matrix_shape[1], generator=generator),
            )
            for name, layer in self.source.layers.items()
        }
        self.modules = [
            Module(name, delta.shape, (f"{name}.up", f"{name}.down")) for name, delta in self.deltas.items()
        ]
        rule = RankRule("fraction", 0.5)
        self.matching = match_by_name(self.source.layers, self.target.layers, self.source.layers)
        self.comparison: Comparison[CountingBase] = compare(self.source, self.target, self.matching, rule)
        self.source.reads.clear()
        self.target.reads.clear()

    def plan(self, **settings: object) -> TransferPlan:
        chosen = {"threshold": 0.0, **settings}
        return plan_transfer(self.comparison, self.modules, TransferSettings(**chosen), "me")  # pyright: ignore[reportArgumentType]

    def run(self, using: Resources | None = None, **settings: object) -> Transferred:
        return transfer(self.comparison, self.plan(**settings), self.deltas, using)


def test_every_module_is_planned_or_skipped_with_a_reason() -> None:
    job = Job()
    plan = job.plan()
    assert {one.pair.source.name for one in plan.pairs} | {one.layer for one in plan.skipped} == set(job.deltas)
    assert [(one.layer, one.reason, one.keys) for one in plan.skipped] == [
        ("b.gone", "the target base has no layer of this name", ("b.gone.up", "b.gone.down"))
    ]


def test_layers_below_the_threshold_are_skipped_or_copied_as_set() -> None:
    job = Job(drift=3.0)
    skipped = job.plan(threshold=0.99)
    assert not skipped.pairs
    assert "is below 0.99" in skipped.skipped[0].reason
    assert "found none among 4 modules" in skipped.why_nothing("A", "B", "Do this.")
    assert skipped.why_nothing("A", "B", "Do this.").endswith("Do this.")
    job.modules = []
    assert "changes no layer" in job.plan().why_nothing("A", "B", "Do this.")
    job = Job(drift=3.0)
    copied = job.plan(threshold=0.99, below_threshold="copy", method="rotate")
    assert {one.action for one in copied.pairs} == {"copy"}
    result = transfer(job.comparison, copied, job.deltas)
    assert all(torch.equal(result.deltas[name].up, job.deltas[name].up) for name in result.deltas)
    assert all(layer.decision == "copied" and layer.equals_copy for layer in result.layers)


def test_a_module_that_does_not_fit_its_layer_is_skipped_with_both_shapes() -> None:
    job = Job()
    job.modules[0] = Module("a.0.q", (32, 31), ("k",))
    (skipped, _) = job.plan().skipped
    assert skipped == Skipped("a.0.q", "its delta has shape [32, 31], the source layer [32, 32]", ("k",))


def test_a_module_that_widens_its_layer_is_copied_whatever_the_method() -> None:
    job = Job()
    job.modules[0] = Module("a.0.q", (32, 40), ("k",), widened=(32, 40))
    job.deltas["a.0.q"] = LowRankDelta(torch.ones(32, 2), torch.ones(2, 40))
    result = job.run(method="lora_x")
    assert result.layers[0].decision == "copied"
    assert torch.equal(result.deltas["a.0.q"].down, job.deltas["a.0.q"].down)


def test_a_layer_that_was_not_compared_is_skipped_with_advice() -> None:
    job = Job()
    job.modules.append(Module("a.9.q", (32, 32), ()))
    assert "connect the same adapter" in job.plan().skipped[-1].reason


@pytest.mark.parametrize("method", ["lora_x", "prolora"])
def test_a_truncated_projection_is_never_scaled_up(method: str) -> None:
    with pytest.raises(InvalidSetting, match="more harm than a random LoRA"):
        TransferSettings(method=method, rescale="relative_norm")


def test_settings_out_of_range_and_unknown_methods_are_refused() -> None:
    with pytest.raises(InvalidSetting, match=r"\[0, 1\], found 1.5"):
        TransferSettings(threshold=1.5)
    with pytest.raises(InvalidSetting, match="expected one of copy, lora_x"):
        Job().plan(method="magic")


@pytest.mark.parametrize(("method", "reads"), [("copy", 0), ("restore", 1), ("lora_x", 1)])
def test_a_method_reads_no_weight_more_than_it_needs(method: str, reads: int) -> None:
    job = Job()
    job.run(method=method)
    assert set(job.source.reads.values()) == set(job.target.reads.values()) == ({reads} if reads else set())


def test_rescaling_gives_the_same_size_relative_to_the_weight() -> None:
    job = Job(drift=1.0)
    result = job.run(method="rotate", rescale="relative_norm")
    for name, delta in result.deltas.items():
        source, target = (float(base.read(base.layers[name]).norm()) for base in (job.source, job.target))
        assert delta.norm() / target == pytest.approx(job.deltas[name].norm() / source, rel=1e-5)


def test_keeping_the_rank_cuts_prolora_back_and_reports_the_loss() -> None:
    exact, kept = (Job().run(method="prolora", out_rank=rank) for rank in ("exact", "keep"))
    for before, after in zip(exact.layers, kept.layers, strict=True):
        assert (before.rank_out, after.rank_out) == (4, 2)
        assert before.energy_lost == 0
        assert 0 < after.energy_lost < 1
        name = after.pair.target.name
        difference = kept.deltas[name].minus(exact.deltas[name]).norm()
        assert (difference / exact.deltas[name].norm()) ** 2 == pytest.approx(after.energy_lost, rel=1e-3)


def test_block_energies_add_up_to_the_whole_delta() -> None:
    for layer in Job().run(method="prolora").layers:
        assert layer.block_energies is not None
        assert sum(layer.block_energies) == pytest.approx(1, abs=1e-5)
        inside, _, _, outside = layer.block_energies
        assert 0 < inside < 1
        assert 0 < outside < 1


def test_the_figures_of_a_layer_are_those_of_the_dense_matrices() -> None:
    job = Job()
    result = job.run(method="prolora_full")
    layer = result.layers[0]
    transferred, delta = result.deltas["a.0.q"].dense(), job.deltas["a.0.q"].dense()
    assert layer.norm_ratio == pytest.approx(float(transferred.norm() / delta.norm()), rel=1e-4)
    cosine = float((transferred * delta).sum() / (transferred.norm() * delta.norm()))
    assert layer.cosine_to_copy == pytest.approx(cosine, rel=1e-4)
    assert not layer.equals_copy


def test_between_equal_bases_the_report_says_that_the_result_is_the_copy() -> None:
    source, _ = related_bases()
    result = Job(bases=(source, source)).run(method="restore")
    assert all(layer.equals_copy for layer in result.layers)


class Cancelled(BaseException):
    """Like ComfyUI's interruption, not an Exception."""


def test_a_cancelled_run_finishes_the_current_layer_and_starts_no_other() -> None:
    job = Job()
    cancelled = threading.Event()
    steps: list[str] = []

    def cancel_after_the_first(done: int, total: int, layer: str) -> None:
        steps.append(layer)
        if done == 1:
            threading.Timer(0.2, cancelled.set).start()
            raise Cancelled

    def read_when_cancelled(layer: Layer) -> torch.Tensor:
        assert job.target.reads.total() == 0 or cancelled.wait(10)
        return CountingBase.read(job.target, layer)

    job.target.read = read_when_cancelled
    with pytest.raises(Cancelled):
        job.run(Resources(progress=cancel_after_the_first), method="lora_x")
    assert len(steps) == 2
    assert job.target.reads.total() <= 2  # of three


def test_a_report_accounts_for_every_key_and_survives_json() -> None:
    job = Job()
    plan = job.plan()
    transferred = transfer(job.comparison, plan, job.deltas)
    unplaced = (Skipped("x", "adapters of kind OFT are not transferred yet", ("x.oft_blocks",)),)
    unread = {"y.z": "the base has no such layer"}
    vectors = (Vector("norm", "diff", torch.zeros(3), ("norm.diff",)),)
    report = transfer_report(
        job.comparison,
        plan,
        transferred.layers,
        Identity("lora", "sha"),
        vectors=vectors,
        skipped=unplaced,
        unread=unread,
    )
    text = json.loads(report.dumps())
    counts = text["counts"]
    assert (text["schema"], text["kind"]) == (1, "transfer")
    assert counts["keys"] == 2 * 4 + 1 + 1 + 1
    assert counts["keys"] == counts["keys_transferred"] + counts["keys_skipped"] + counts["keys_unread"]
    assert text["settings"]["rank_rule"] == "fraction"
    assert text["notes"] == ["source: made in a test", "target: made in a test"]
    assert report.summary().startswith("layers: 3 transferred, 2 skipped, 7 of 11 keys transferred")
    assert text["layers"][0]["chance_left"] == 0.5
    assert "layers" not in report.provenance()


def test_a_report_of_similarity_alone_has_the_same_schema() -> None:
    job = Job()
    report = similarity_report(job.comparison, None, 0.1).as_json()
    assert report["counts"]["compared"] == 3
    assert report["adapter"] is None
    assert set(report["layers"][0]) == set(
        transfer_report(job.comparison, job.plan(), job.run().layers, Identity("", "")).as_json()["layers"][0]
    )
    assert math.isfinite(report["means"]["phi"])


def test_a_change_without_a_low_rank_form_is_cut_to_the_dense_rank_with_the_loss_in_the_report() -> None:
    job = Job()
    job.modules = [Module(one.layer, one.shape, one.keys, exact=False) for one in job.modules]
    job.deltas = {name: full(one.dense() + torch.eye(*one.shape)) for name, one in job.deltas.items()}
    for threshold, below in ((0.0, "skip"), (1.0, "copy")):
        result = job.run(method="copy", dense_rank=5, threshold=threshold, below_threshold=below)
        for layer in result.layers:
            assert layer.rank_out == 5
            name = layer.pair.source.name
            lost = result.deltas[name].minus(job.deltas[name]).norm() / job.deltas[name].norm()
            assert layer.energy_lost == pytest.approx(lost**2, rel=1e-2)


def test_out_rank_cut_keeps_the_smallest_rank_that_holds_a_share_of_the_energy_and_reports_the_loss() -> None:
    job = Job()
    for name, delta in job.deltas.items():
        fading = 0.5 ** torch.arange(min(delta.shape), dtype=torch.float32)  # energies 1, 1/4, 1/16, ...
        left, right = (torch.linalg.qr(torch.randn(side, len(fading)))[0] for side in delta.shape)
        job.deltas[name] = LowRankDelta(left * fading, right.mT)
    for energy, rank in ((0.7, 1), (0.9, 2), (0.99, 4)):
        for layer in job.run(method="copy", out_rank="cut", dense_energy=energy).layers:
            assert layer.rank_out == rank
            assert layer.energy_lost == pytest.approx(0.25**rank, rel=1e-2)
    assert {one.rank_out for one in job.run(method="copy", out_rank="cut", dense_rank=3).layers} == {3}
    exact = job.run(method="copy", dense_energy=0.7).layers
    assert all(one.energy_lost == 0 for one in exact)
    with pytest.raises(InvalidSetting, match=r"a share in \(0, 1\], found 0"):
        job.plan(dense_energy=0.0)


def test_the_means_of_similarity_include_layers_below_the_threshold() -> None:
    job = Job()
    figures = sorted(one.phi for _, one in job.comparison.layers.values() if one.phi is not None)
    plan = job.plan(threshold=figures[-1])  # one layer is left
    transferred = transfer(job.comparison, plan, job.deltas)
    report = transfer_report(job.comparison, plan, transferred.layers, Identity("", ""))
    assert len(report.layers) == 1
    assert report.means()["phi"] == pytest.approx(sum(figures) / len(figures))


def test_biases_and_norms_are_copied_if_the_target_has_them() -> None:
    vectors = [Vector(name, "diff", torch.zeros(4), (f"{name}.diff",)) for name in ("here", "longer", "nowhere")]
    copied, skipped = plan_vectors(vectors, {"here": (4,), "longer": (9,)}, "B")
    assert [one.parameter for one in copied] == ["here"]
    assert [one.reason for one in skipped] == [
        "a bias or norm: B has it with shape [9]",
        "a bias or norm: B has no such parameter",
    ]


@pytest.mark.parametrize("method", ["lora_x", "restore"])
def test_the_lora_is_copied_where_both_bases_share_a_text_encoder(method: str) -> None:
    source, _ = related_bases()
    source.layers = {name: dataclasses.replace(layer, text_encoder=True) for name, layer in source.layers.items()}
    job = Job(bases=(source, source))
    for layer in job.run(method=method).layers:
        assert (layer.decision, layer.equals_copy) == ("copied", True)
        assert "copied unchanged" in layer.reason


def adapter_of(job: Job, seed: int, layers: list[str] | None = None) -> dict[str, LowRankDelta]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: layer.weight.matrix_shape for name, layer in job.source.layers.items()}
    return {
        name: LowRankDelta(torch.randn(m, 3, generator=generator), torch.randn(3, n, generator=generator))
        for name, (m, n) in shapes.items()
        if layers is None or name in layers
    }


@pytest.mark.parametrize("method", [method.name for method in METHODS])
def test_adapters_together_give_the_bits_of_each_alone(method: str) -> None:
    job = Job()
    adapters = [adapter_of(job, 1), adapter_of(job, 2, ["a.0.up"]), adapter_of(job, 3)]
    settings = TransferSettings(method, 0.0)
    tasks = [
        TransferTask(plan_transfer(job.comparison, modules_of(deltas), settings, str(index)), deltas)
        for index, deltas in enumerate(adapters)
    ]
    together = transfer_many(job.comparison, tasks, Resources(workers=2))
    for task, result in zip(tasks, together, strict=True):
        alone = transfer(job.comparison, task.plan, task.deltas)
        assert isinstance(result, Transferred)
        assert result.layers == alone.layers
        assert all(
            torch.equal(delta.up, alone.deltas[name].up) and torch.equal(delta.down, alone.deltas[name].down)
            for name, delta in result.deltas.items()
        )


@pytest.mark.parametrize("method", ["restore_both", "lora_x"])
def test_a_weight_is_read_once_for_all_adapters(method: str) -> None:
    job = Job()
    tasks = [TransferTask(job.plan(method=method), adapter_of(job, seed)) for seed in range(4)]
    transfer_many(job.comparison, tasks)
    assert set((job.source.reads | job.target.reads).values()) == {1}


def test_an_adapter_that_fails_stops_no_other() -> None:
    class Broken(dict[str, LowRankDelta]):
        def __getitem__(self, layer: str) -> LowRankDelta:
            raise InvalidSetting(f"broken at {layer}")

    job = Job()
    plan = job.plan(method="restore_both")
    first, second, third = transfer_many(
        job.comparison,
        [TransferTask(plan, job.deltas), TransferTask(plan, Broken(job.deltas)), TransferTask(plan, job.deltas)],
        Resources(workers=2),
    )
    assert isinstance(first, Transferred)
    assert isinstance(third, Transferred)
    assert isinstance(second, InvalidSetting)
    assert str(second) == f"broken at {plan.pairs[0].pair.source.name}"  # the first of the plan, whatever ran first
