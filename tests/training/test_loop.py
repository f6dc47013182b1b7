"""The training loop: learns, repeats exactly, goes on exactly, keeps the best, and stops where it must."""

from __future__ import annotations

import signal
from contextlib import contextmanager

import pytest
import torch

from benchmark.backbones.small_cnn import small_cnn
from benchmark.data.images import Images
from benchmark.data.synthetic import Synthetic
from benchmark.errors import BenchmarkError
from benchmark.training.batches import Share, training_batches
from benchmark.training.distributed import Team
from benchmark.training.judging import Judged, judge
from benchmark.training.loop import Diverged, Interrupted, Training
from benchmark.training.objective import Objective
from benchmark.training.recipe import Recipe
from benchmark.training.state import StateFiles
from benchmark.training.stopping import StopRequest, stop_on_signals
from benchmark.training.thresholds import initialise_thresholds
from methods.qcfs import QCFS, QCFSActivation
from methods.qffs import QFFS
from methods.surrogate import Surrogate

PREPROCESSING = Synthetic.preprocessing
TEAM = Team(Share(), torch.device("cpu"))


class Silent:
    """Hears everything; `at` calls `what` before a step."""

    def __init__(self, at=None, what=None):
        self.at, self.what = at, what
        self.epochs, self.begun, self.bars, self.steps = [], [], [], 0

    def begins(self, progress):
        self.begun.append((progress.epoch, progress.step))

    @contextmanager
    def bar(self, title, total, done):
        self.bars.append((title, total, done))

        def update(count):
            self.steps += 1
            if self.steps == self.at:
                self.what()

        yield update

    def epoch(self, result, progress):
        self.epochs.append(result)


@pytest.fixture(scope="module")
def images() -> Images:
    return Synthetic().split("train").first(128)


def network(method=None) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (method or QCFS(threshold=4.0)).prepare(small_cnn(3, 4))


def training(images, model=None, files=None, judged=None, **changes) -> Training:
    own = {"compile", "channels_last", "checkpoint_seconds"} & changes.keys()
    execution = {name: changes.pop(name) for name in own}
    recipe = Recipe(**{"epochs": 4, "batch_size": 32, "lr": 0.05, "augment": ("crop-flip",), **changes})
    return Training(
        model=model if model is not None else network(),
        batches=training_batches(images, PREPROCESSING, recipe, Share(), TEAM.device, torch.float32),
        objective=Objective(QCFS().loss, recipe, 4),
        judged=judged or (lambda model: judge(model, images, PREPROCESSING, TEAM)),
        team=TEAM,
        files=files,
        **execution,
    )


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    a, b = left.state_dict(), right.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_training_learns_and_repeats_exactly(images):
    first, second = (training(images, augment=(), epochs=8) for _ in range(2))
    untrained = judge(network(), images, PREPROCESSING, TEAM).accuracy
    for number, each in enumerate((first, second)):
        torch.manual_seed(number)  # the global generator must not matter
        before = torch.get_rng_state()
        each.run(Silent())
        assert torch.equal(torch.get_rng_state(), before)
    assert same(first.model, second.model)
    assert not first.model.training
    assert judge(first.model, images, PREPROCESSING, TEAM).accuracy > 0.6 > untrained
    assert first.progress.history[-1].loss < first.progress.history[0].loss


@pytest.mark.parametrize(
    "changes",
    [
        {"ema": 0.9, "mixup": 0.4, "label_smoothing": 0.1, "clip_norm": 1.0},
        {"optimizer": "adamw", "lr": 1e-3, "accumulate": 2},
        {"precision": "bf16", "channels_last": True},
    ],
)
@pytest.mark.parametrize("at", [2, 4, 11])
def test_a_stopped_training_goes_on_and_ends_with_the_same_weights(images, tmp_path, at, changes):
    unbroken = training(images, **changes)
    unbroken.run(Silent())
    stop = StopRequest()
    cut = training(images, files=StateFiles(tmp_path, "a"), **changes)
    heard = Silent(at, stop.set)
    with pytest.raises(Interrupted):
        cut.run(heard, stop)
    assert heard.steps == at  # it stops after the step that it is in
    later = training(images, files=StateFiles(tmp_path, "a"), **changes)
    torch.manual_seed(99)
    rest = Silent()
    later.run(rest)
    epoch, step = divmod(at - 1, 4)  # an epoch that was cut off after its last step is not over
    assert rest.begun == [(epoch, step + 1)]
    assert rest.bars[0][2] == (step + 1) * 32
    assert heard.steps + rest.steps == 16
    assert later.progress.resumed_at == (at / 4,)
    assert same(later.model, unbroken.model)

    def results(progress):
        return [epoch.model_dump(exclude={"seconds", "images_per_second"}) for epoch in progress.history]

    assert results(later.progress) == results(unbroken.progress)


def test_the_state_is_written_in_the_middle_of_an_epoch(images, tmp_path):
    class PowerCut(Exception):
        pass

    def cut():
        raise PowerCut

    files = StateFiles(tmp_path, "a")
    with pytest.raises(PowerCut):
        training(images, files=files, checkpoint_seconds=0.0).run(Silent(7, cut))
    progress, _ = files.read()
    assert (progress.epoch, progress.step) == (1, 2)  # the seventh step had not been counted yet
    with pytest.raises(PowerCut):
        training(images, files=StateFiles(tmp_path / "rare", "a")).run(Silent(7, cut))
    progress, _ = StateFiles(tmp_path / "rare", "a").read()
    assert (progress.epoch, progress.step) == (1, 0)


def test_the_best_epoch_is_kept_the_last_of_equals(images, tmp_path):
    scripted = iter([40, 90, 10, 90, 60])
    seen = []

    def judged(model):
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return Judged(next(scripted), 100, 1.0)

    files = StateFiles(tmp_path, "a")
    best = training(images, files=files, judged=judged, epochs=5)
    best.run(Silent())
    assert best.progress.best_epoch == 4
    assert all(torch.equal(best.model.state_dict()[name], value) for name, value in seen[3].items())
    assert [path.name for path in tmp_path.glob("best-*")] == ["best-4.pt"]
    scripted = iter([40, 90, 10, 90, 60])
    in_memory = training(images, judged=judged, epochs=5)
    in_memory.run(Silent())
    assert same(in_memory.model, best.model)
    files.clear()
    assert not list(tmp_path.iterdir())


def test_the_average_is_what_is_judged_and_kept(images):
    averaged, plain = training(images, ema=0.5), training(images)
    averaged.run(Silent())
    plain.run(Silent())
    assert not same(averaged.model, plain.model)
    assert averaged.progress.history[-1].loss == plain.progress.history[-1].loss  # trained alike
    accuracy = judge(averaged.model, images, PREPROCESSING, TEAM).accuracy
    assert accuracy == max(epoch.calibration_accuracy for epoch in averaged.progress.history)


def test_parts_of_a_batch_add_up(images):
    """Without batch norms, whose statistics are of a part, two halves of a batch give the gradient of the whole."""

    def plain():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return torch.nn.Sequential(
                torch.nn.Flatten(), torch.nn.Linear(192, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)
            )

    whole, halves = training(images, plain(), accumulate=1), training(images, plain(), accumulate=2)
    for each in (whole, halves):
        each.run(Silent())
    for a, b in zip(whole.model.parameters(), halves.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    losses = [each.progress.history[-1].loss for each in (whole, halves)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", [QCFS(threshold=4.0), QFFS(threshold=4.0), Surrogate(steps=2)], ids=str)
def test_compiled_gradients_are_the_plain_ones(images, method):
    quantised = network(method).train()
    inputs, labels = next(iter(training(images).batches.epoch(0)))
    gradients = []
    for run in (quantised, torch.compile(quantised)):
        quantised.zero_grad()
        method.loss(run(inputs), labels).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in quantised.named_parameters()})
    for name, plain in gradients[0].items():
        assert plain.any(), name
        assert torch.allclose(gradients[1][name], plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max())), name


@pytest.mark.parametrize("lost", ["zeros", "none"])
def test_a_compiler_that_loses_gradients_is_found_out(images, monkeypatch, lost):
    """As torch 2.11 did with autograd functions that work in place."""

    def compile_badly(network):
        def run(inputs):
            outputs = network(inputs)
            held = outputs if lost == "zeros" else next(network.parameters()).sum()
            return outputs.detach() + 0 * held

        return run

    monkeypatch.setattr(torch, "compile", compile_badly)
    with pytest.raises(BenchmarkError, match=r"torch.compile of torch .* loses the gradients of \d+ parameters"):
        training(images, compile=True).run(Silent())


@pytest.mark.slow
def test_a_compiled_training_is_the_same_training(images):
    eager, compiled = training(images), training(images, compile=True)
    eager.run(Silent())
    compiled.run(Silent())
    assert compiled.progress.history[0].loss == pytest.approx(eager.progress.history[0].loss, rel=1e-3)


def test_a_diverging_training_stops_and_keeps_the_best(images, tmp_path):
    files = StateFiles(tmp_path, "a")
    each = training(images, files=files, epochs=3)

    def poison():
        next(each.model.parameters()).data[0] = float("nan")

    with pytest.raises(
        Diverged, match=r"epoch 2: a weight is no longer a finite number. The best weights so far, of epoch 1"
    ):
        each.run(Silent(6, poison))
    progress, parts = files.read()
    assert (progress.epoch, progress.step) == (1, 0)
    assert all(torch.isfinite(value).all() for value in parts["model"].values())
    assert files.read_best(1).keys() == each.model.state_dict().keys()


def test_a_bad_state_is_never_written(images, tmp_path):
    files = StateFiles(tmp_path, "a")
    each = training(images, files=files, checkpoint_seconds=0.0, lr=1e20)
    with pytest.raises(Diverged, match="diverged in epoch 1"):
        each.run(Silent())
    found = files.read()
    assert found is None or all(torch.isfinite(value).all() for value in found[1]["model"].values())


@pytest.mark.parametrize("method", [QCFS(threshold=4.0), QFFS(threshold=4.0)])
def test_thresholds_stay_above_zero(images, method):
    model = network(method)
    activations = [module for module in model.modules() if hasattr(module, "set_top")]
    tops = [activation.top for activation in activations]

    def shrink():
        for activation in activations:
            activation.set_top(-5.0)

    # The next step's gradient cannot lift it from -5 to above zero.
    each = training(images, model, lr=1e-3)
    each.run(Silent(13, shrink))
    for activation, top in zip(activations, tops, strict=True):
        assert activation.top == pytest.approx(top / 100, rel=0.2)
    assert len(each.progress.at_floor) == 3


def test_no_threshold_is_at_its_floor_by_itself(images):
    each = training(images)
    each.run(Silent())
    assert each.progress.at_floor == ()


def test_states_that_cannot_be_gone_on_with(images, tmp_path):
    with pytest.raises(Interrupted):
        stop = StopRequest()
        training(images, files=StateFiles(tmp_path, "a")).run(Silent(3, stop.set), stop)
    with pytest.raises(BenchmarkError, match="is the state of another training"):
        training(images, files=StateFiles(tmp_path, "b")).run(Silent())
    path = tmp_path / "state.pt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BenchmarkError, match="damaged"):
        training(images, files=StateFiles(tmp_path, "a")).run(Silent())


def test_thresholds_start_at_the_quantile_of_their_input(images):
    from benchmark.training.prepared import first_batch

    model = network().eval()
    inputs = {}
    batch = first_batch(images, PREPROCESSING, 64)
    initialise_thresholds(model, batch, quantile=0.9)
    for name, module in model.named_modules():
        if isinstance(module, QCFSActivation):
            module.register_forward_pre_hook(
                lambda module, args, name=name: inputs.__setitem__(name, (module, args[0]))
            )
    with torch.no_grad():
        model(batch)
    assert len(inputs) == 3
    for module, z in inputs.values():
        below = (z.clamp_min(0) < module.threshold).double().mean().item()
        assert below == pytest.approx(0.9, abs=0.002)


def test_judging_by_hand(images):
    model = network()
    found = judge(model, images, PREPROCESSING, TEAM)
    assert model.training  # its mode stays
    model.eval()
    from benchmark.loading import normalise

    logits = model(normalise(torch.from_numpy(images.pixels), PREPROCESSING)).detach()
    labels = torch.from_numpy(images.labels)
    assert (found.right, found.images) == (int((logits.argmax(1) == labels).sum()), 128)
    assert found.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_a_warning_is_taken_while_training_and_given_back():
    """SIGUSR2 belongs to submitit, which would end the process in the middle of a step."""
    heard = []
    theirs = signal.signal(signal.SIGUSR2, lambda *_: heard.append("theirs"))
    terminated = signal.signal(signal.SIGTERM, lambda *_: heard.append("terminated"))
    try:
        with stop_on_signals() as stop:
            signal.raise_signal(signal.SIGTERM)  # somebody handles it already
            assert heard == ["terminated"] and not stop.raised
            signal.raise_signal(signal.SIGUSR2)
            assert stop.raised and heard == ["terminated"]
        signal.raise_signal(signal.SIGUSR2)
        assert heard == ["terminated", "theirs"]
    finally:
        signal.signal(signal.SIGUSR2, theirs)
        signal.signal(signal.SIGTERM, terminated)
