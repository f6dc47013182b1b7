"""Streams: places are refilled as images leave, and every image stops like in the replay, whatever company it had."""

from __future__ import annotations

import itertools

import pytest
import torch
from counted_network import CountedNetwork, racing_images
from dyadic import perceptron, prepared
from pairs import pairs_in_turn
from torch import nn

from benchmark import registry
from benchmark.conformance import calibration_images, quantised_network, random_images
from benchmark.evaluation import make_policy, parse_policy
from dynconf import DynamicConfidence, DynamicInference, FixedTime, Patience, record
from dynconf.image_stream import ImageStream
from dynconf.judging import outcome
from dynconf.names import POLICIES
from dynconf.policies import RandomExit
from dynconf.policy import Watch
from methods.qcfs import QCFS
from methods.qffs import QFFS

TIMESTEPS = 10
COUNT = 120
ALONE = 30  # how many of them are simulated one by one, which is slow
RULES = [
    *POLICIES,
    "dynamic-confidence[scale=2,threshold=0.5]",
    "margin[per_step=true,epsilon=0.1]",
    "patience[steps=3]",
    "random[reference=patience,seed=4]",
    "conformal[target=0.8,max_set=2,scale=3]",
    "silence[after=5]",
    "fixed[timesteps=4]",
]
NAMES = ("prediction", "timesteps", "latency", "spikes", "synops")


class RefillableNetwork(CountedNetwork):
    """The counted network with an age for every row. Keeps a diary of the rows that it was asked to compute."""

    def begin(self, images):
        super().begin(images)
        self.ages = torch.zeros(len(images), dtype=torch.long)
        self.diary = [*getattr(self, "diary", []), ("begin", len(images))]

    def step(self):
        self.diary.append(("step", len(self.images)))
        # Rows of images that have left go on until they are replaced, at whatever timestep.
        shown = self.images[torch.arange(len(self.images)), self.ages.clamp(max=self.images.shape[1] - 1)]
        self.ages = self.ages + 1
        self.spikes = shown[:, -1].long()
        self.synops = 3 * self.spikes
        return shown[:, :-1]

    def keep(self, mask):
        super().keep(mask)
        self.ages = self.ages[mask]

    def replace(self, places, images):
        assert len(set(places.tolist())) == len(places) == len(images)
        self.diary.append(("replace", len(images)))
        self.images = self.images.index_copy(0, places, images)
        self.ages = self.ages.index_fill(0, places, 0)
        self.spikes, self.synops = (values.index_fill(0, places, 0) for values in (self.spikes, self.synops))

    def rows(self, *kinds):
        return [rows for kind, rows in self.diary if kind in kinds]


class LookingAhead(RefillableNetwork):
    """The same, which computes three timesteps before anyone may leave, and insists on it."""

    lookahead = 3
    ahead = 0

    def begin(self, images):
        self.ahead = 0
        super().begin(images)

    def steps(self, count):
        self.diary.append(("steps", count))
        self.ahead = count
        for _ in range(count):
            logits = super().step()
            self.ahead -= 1
            yield logits

    def step(self):
        assert not self.ahead
        return super().step()

    def keep(self, mask):
        assert not self.ahead
        super().keep(mask)

    def replace(self, places, images):
        assert not self.ahead
        super().replace(places, images)


def chunked(images, seed):
    """The images in batches of random sizes, some empty, some as (images, labels)."""
    generator = torch.Generator().manual_seed(seed)
    while len(images):
        size = int(torch.randint(0, 40, (), generator=generator))
        yield images[:size] if size % 2 else (images[:size], torch.zeros(min(size, len(images))))
        images = images[size:]


def assert_same(answers, expected, where, count=None):
    """Of the first `count` images, or of all."""
    for name in NAMES:
        found = getattr(answers, name)
        assert found.dtype == torch.long and torch.equal(found, getattr(expected, name)[:count]), (where, name)


def concatenated(parts):
    return type(parts[0])(*(torch.cat([getattr(part, name) for part in parts]) for name in NAMES))


@pytest.fixture(scope="module")
def recordings():
    made = {}
    for seed, split in enumerate(("calibration", "test")):
        images, labels = racing_images(600 if split == "calibration" else COUNT, TIMESTEPS, seed=seed)
        made[split] = record(CountedNetwork(), [(images, labels)], timesteps=TIMESTEPS, split=split)
    return made


IMAGES = racing_images(COUNT, TIMESTEPS, seed=1)[0]


@pytest.mark.parametrize("rule", RULES)
def test_a_stream_equals_the_replay(rule, recordings):
    policy = make_policy(parse_policy(rule)).fit(recordings["calibration"])
    expected = outcome(recordings["test"], policy.exit_steps(recordings["test"]))
    for network in (RefillableNetwork(), LookingAhead()):
        run = DynamicInference(network, policy, TIMESTEPS)
        assert_same(run.stream(chunked(IMAGES[:ALONE], seed=1), 1, 0.0), expected, "one by one", ALONE)
        for batch_size, refill in ((7, 0.0), (7, 0.3), (64, 0.1), (64, 1.0), (512, 0.0)):
            answers = run.stream(chunked(IMAGES, seed=batch_size), batch_size, refill)
            assert_same(answers, expected, (batch_size, refill))
    parts = list(run.iter_stream(chunked(IMAGES, seed=1), batch_size=9))
    assert_same(concatenated(parts), expected, "lazily")


def varied(method):
    """A tiny quantised network whose logits, large and with mean zero, make many answers change over time."""
    quantised = quantised_network(method, "plain")
    head = [module for module in quantised.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        head.weight.mul_(60).sub_(head.weight.mean(0))
        head.bias.zero_().sub_(quantised(random_images(50, 9)).mean(0))
    return quantised


@pytest.fixture(scope="module")
def simulated():
    """Of a method: the network, and its calibration and test recording; the labels are its last answers."""
    made = {}

    def of(method):
        if str(method) not in made:
            network = method.convert(varied(method), calibration_images(method))
            made[str(method)] = [network]
            for seed, split in ((2, "calibration"), (3, "test")):
                images = random_images(70, seed)
                labels = record(network, [(images, torch.zeros(70))], timesteps=8).predictions[:, -1]
                made[str(method)].append(record(network, [(images, labels)], timesteps=8, split=split))
        return made[str(method)]

    return of


METHODS = [registry.load("methods", name)() for name in ("qcfs", "srp", "cos", "ftbc", "st-bif", "qffs")]


GIVEN = [
    "patience[steps=2]",
    "patience[steps=4]",
    "dynamic-confidence[scale=2,threshold=0.5]",
    "entropy[scale=1,threshold=0.5]",
    "margin[threshold=2]",
]


@pytest.mark.parametrize(
    ("rule", "method"),
    pairs_in_turn([*POLICIES, *GIVEN, "random[reference=patience]"], [*METHODS, QFFS(settle_steps=2)], each=3),
)
def test_spiking_networks_stop_like_the_replay(method, rule, simulated):
    network, calibration, test = simulated(method)
    policy = make_policy(parse_policy(rule)).fit(calibration)
    expected = outcome(test, policy.exit_steps(test))
    images, run = random_images(70, 3), DynamicInference(network, policy, 8)
    assert_same(concatenated([run(batch) for batch in images[:ALONE].split(1)]), expected, "one by one", ALONE)
    for batch_size in (64, 512):
        whole = concatenated([run(batch) for batch in images.split(batch_size)])
        assert_same(whole, expected, ("whole", batch_size))
        assert_same(run.stream(chunked(images, 5), batch_size), expected, ("stream", batch_size))
    assert_same(run.stream(chunked(images, 6), batch_size=16, refill=0.2), expected, "stream")
    assert_same(run.stream([images], batch_size=16, buckets=(4, 8, 16)), expected, "stream in buckets")


def test_the_rules_above_let_images_leave_at_different_times(simulated):
    for method, rule in itertools.product(METHODS, GIVEN):
        exits = make_policy(parse_policy(rule)).exit_steps(simulated(method)[2])
        assert len(exits.unique()) > 2, (method, rule, torch.bincount(exits))


@pytest.mark.parametrize("method", [QCFS(levels=4), QFFS(levels=4)], ids=str)
def test_float32_where_nothing_rounds(method):
    network = method.convert(prepared(method, perceptron(8, 16, 16, 5)).float())
    images = torch.randint(-16, 17, (120, 8), generator=torch.Generator().manual_seed(1)) / 16
    recording = record(network, [(images, torch.zeros(120))], timesteps=12, split="calibration")
    for policy in (Patience(steps=3), DynamicConfidence(scale=1.0, threshold=0.8)):
        exits = policy.exit_steps(recording)
        assert len(exits.unique()) > 3
        expected, run = outcome(recording, exits), DynamicInference(network, policy, 12)
        for batch_size in (1, 2, 64, 512):
            count = ALONE if batch_size < 64 else None
            shown = images[:count]
            assert_same(run.stream(chunked(shown, batch_size), batch_size), expected, batch_size, count)
            assert_same(concatenated([run(batch) for batch in shown.split(batch_size)]), expected, batch_size, count)


# Full batches, in as few timesteps as can be


def test_the_batch_stays_full_until_the_stream_ends():
    network, policy = RefillableNetwork(), Patience(steps=3)
    answers = DynamicInference(network, policy, TIMESTEPS).stream([IMAGES], batch_size=16, refill=0.0)
    rows = network.rows("step")
    assert len(network.rows("begin")) == 1 and sum(network.rows("begin", "replace")) == COUNT
    assert sum(rows) == int(answers.timesteps.sum())  # nobody is simulated in vain
    full = rows.index(next(size for size in rows if size < 16))
    assert set(rows[:full]) == {16} and sorted(rows[full:], reverse=True) == rows[full:]
    assert len(rows) - full <= TIMESTEPS


def test_refilling_waits_for_its_share_of_the_places():
    network = RefillableNetwork()
    answers = DynamicInference(network, Patience(steps=3), TIMESTEPS).stream([IMAGES], batch_size=16, refill=0.25)
    replaced = network.rows("replace")
    assert min(replaced[:-1]) >= 4 and sum(replaced) == COUNT - 16
    wasted = sum(network.rows("step")) - int(answers.timesteps.sum())
    assert 0 < wasted <= 3 * len(network.rows("step"))


class AgesApart(RefillableNetwork):
    """The same, which computes images of different age one after the other."""

    parts_ages = True


def test_by_default_a_sixteenth_of_the_places_is_waited_for():
    """Also for a network that says nothing of it, and for one that takes images of any age together."""
    policy = RandomExit(rates=(0.1,) * TIMESTEPS, selection="given")

    def diary(network, **options):
        DynamicInference(network, policy, TIMESTEPS).stream([IMAGES], batch_size=32, **options)
        return network.diary

    together = AgesApart()
    together.parts_ages = False
    expected = diary(RefillableNetwork(), refill=1 / 16)
    assert diary(RefillableNetwork()) == diary(together) == expected != diary(RefillableNetwork(), refill=0.0)
    assert diary(AgesApart()) == diary(AgesApart(), refill=1.0) != expected


def test_timesteps_ahead_are_few_and_end_with_the_last_one():
    network = LookingAhead()
    answers = DynamicInference(network, Patience(steps=3), TIMESTEPS).stream([IMAGES], batch_size=1)
    assert network.rows("begin") == [1] * COUNT
    # Ten timesteps are three times three and one, which is not asked for as one of several.
    assert set(network.rows("steps")) == {3}
    assert sum(network.rows("steps")) == int(((answers.timesteps + 2) // 3 * 3).clamp(max=9).sum())
    assert TIMESTEPS in answers.timesteps
    # This network computes no timestep before its logits are asked for.
    assert sum(network.rows("step")) == int(answers.timesteps.sum())
    network.diary.clear()
    DynamicInference(network, FixedTime(timesteps=5), 5).stream([IMAGES[:2]], batch_size=1)
    assert network.diary == [("begin", 1), ("steps", 3), *[("step", 1)] * 3, ("steps", 2), *[("step", 1)] * 2] * 2


def test_a_network_that_was_left_ahead_can_be_used_again():
    run = DynamicInference(LookingAhead(), Patience(steps=2), TIMESTEPS)
    expected = run(IMAGES)
    parts = run.iter_stream([IMAGES], batch_size=16)
    next(parts)
    assert run.network.ahead
    assert_same(run(IMAGES), expected, "again")


@pytest.mark.parametrize(
    ("network", "refill"), [(RefillableNetwork(), 1.0), (CountedNetwork(), 0.0), (AgesApart(), None)]
)
def test_batch_after_batch_where_asked_for_or_where_nothing_else_is_possible(network, refill):
    begun, stepped = [], []
    begin, step = network.begin, network.step
    network.begin = lambda images: begun.append(len(images)) or begin(images)
    network.step = lambda: stepped.append(len(network.images)) or step()
    answers = DynamicInference(network, Patience(steps=3), TIMESTEPS).stream(chunked(IMAGES, 2), 16, refill)
    assert begun == [16] * 7 + [8]
    assert sum(stepped) == int(answers.timesteps.sum())
    assert len(answers.timesteps) == COUNT


@pytest.mark.parametrize("count", [0, 1, 3, 5, 16, 17, 40, COUNT])
@pytest.mark.parametrize("buckets", [(16,), (16, 4), (2, 8, 16), (1, 2, 4, 8, 16)])
def test_buckets_are_the_only_sizes(buckets, count, recordings):
    policy = Patience(steps=3)
    expected = outcome(recordings["test"], policy.exit_steps(recordings["test"]))
    network = RefillableNetwork()
    answers = DynamicInference(network, policy, TIMESTEPS).stream(chunked(IMAGES[:count], 3), 16, 0.1, buckets)
    for name in NAMES:
        assert torch.equal(getattr(answers, name), getattr(expected, name)[:count])
    if count:
        assert set(network.rows("begin", "step", "replace")) <= set(buckets)
    else:
        assert not hasattr(network, "diary")


class FewAtATime(RefillableNetwork):
    """The same, which is fastest with three images."""

    def places_for(self, images):
        return min(len(images), 3)


@pytest.mark.parametrize("refill", [0.0, 0.5, 1.0])
def test_a_network_that_is_faster_with_fewer_images_gets_no_more(refill, recordings):
    policy = Patience(steps=3)
    expected = outcome(recordings["test"], policy.exit_steps(recordings["test"]))
    network = FewAtATime()
    run = DynamicInference(network, policy, TIMESTEPS)
    assert_same(run.stream(chunked(IMAGES, 4), 16, refill), expected, refill)
    assert max(network.rows("begin", "step")) == 3
    replaced = network.rows("replace")
    assert bool(replaced) == (refill < 1)
    if refill == 0.5:  # of three places
        assert min(replaced[:-1]) == 2
    network.diary.clear()
    assert_same(run(IMAGES), expected, "whole")
    assert network.rows("begin") == [3] * (COUNT // 3)
    network.diary.clear()
    run.stream([IMAGES[:20]], 16, buckets=(8, 16))
    assert set(network.rows("begin", "step")) <= {8, 16}


class FewSizes(RefillableNetwork):
    """The same, which prepares itself anew for every number of rows."""

    def row_sizes(self, images):
        assert images.shape[1:] == IMAGES.shape[1:]
        return sorted({size for size in (1, 2, 3, 4, 6, 8, 12) if size < len(images)} | {len(images)})


@pytest.mark.parametrize("refill", [0.0, 0.5, 1.0])
def test_a_network_that_asks_for_few_numbers_of_rows_gets_no_others(refill, recordings):
    policy = Patience(steps=3)
    expected = outcome(recordings["test"], policy.exit_steps(recordings["test"]))
    network = FewSizes()
    run = DynamicInference(network, policy, TIMESTEPS)
    assert_same(run.stream(chunked(IMAGES, 4), 16, refill), expected, refill)
    sizes = set(network.rows("begin", "step", "replace"))
    assert 16 in sizes and {6, 8, 12} & sizes and sizes <= {1, 2, 3, 4, 6, 8, 12, 16}
    network.diary.clear()
    assert_same(run(IMAGES), expected, "whole")
    assert set(network.rows("begin", "step")) <= {1, 2, 3, 4, 6, 8, 12, COUNT}
    network.diary.clear()
    run.stream([IMAGES[:20]], 16, buckets=(8, 16))
    assert set(network.rows("begin", "step")) <= {8, 16}


@pytest.mark.parametrize(
    ("rule", "ageless"),
    [
        ("dynamic-confidence", True),
        ("margin[selection=ltt]", True),
        ("entropy", True),
        ("dynamic-confidence-reference", True),
        ("margin[per_step=true,epsilon=0.1]", False),
        ("agreement", False),
        ("patience[steps=3]", False),
        ("random[reference=patience]", False),
        ("conformal[target=0.8]", False),
        ("fixed[timesteps=4]", False),
        ("silence[after=5]", False),
    ],
)
def test_which_rules_ask_for_no_age(rule, ageless, recordings):
    assert make_policy(parse_policy(rule)).fit(recordings["calibration"]).ageless == ageless


@pytest.mark.parametrize(("per_step", "once"), [("", True), ("[per_step=true,epsilon=0.1]", False)])
def test_a_rule_that_asks_for_no_age_is_asked_about_all_images_at_once(per_step, once, recordings, monkeypatch):
    policy = make_policy(parse_policy(f"margin{per_step}")).fit(recordings["calibration"])
    asked, stops = [], Watch.stops
    monkeypatch.setattr(
        Watch, "stops", lambda self, evidence, *more: asked.append(evidence) or stops(self, evidence, *more)
    )
    network = RefillableNetwork()
    DynamicInference(network, policy, TIMESTEPS).stream([IMAGES], 16, 0.0)
    assert (len(asked) == len(network.rows("step"))) == once
    assert len(asked) >= len(network.rows("step"))


class Inverted(DynamicConfidence):
    """A rule of somebody's own, which changed what every timestep asks."""

    def decide(self, evidence, timestep):
        return super().decide(evidence, timestep) & (timestep % 2 == 0)


def test_a_rule_of_somebodys_own_is_asked_about_each_age(recordings):
    policy = Inverted(scale=2.0, threshold=0.5)
    assert not policy.ageless
    answers = DynamicInference(RefillableNetwork(), policy, TIMESTEPS).stream(chunked(IMAGES, 3), 16, 0.1)
    assert_same(answers, outcome(recordings["test"], policy.exit_steps(recordings["test"])), "inverted")
    assert set(answers.timesteps.tolist()) <= {2, 4, 6, 8, 10}


# The stream: order, ends, laziness


@pytest.mark.parametrize("batches", [[], [IMAGES[:0]], [(IMAGES[:0], torch.zeros(0))]])
def test_an_empty_stream_has_no_answers(batches):
    run = DynamicInference(RefillableNetwork(), Patience(steps=3), TIMESTEPS)
    answers = run.stream(batches)
    assert all(getattr(answers, name).shape == (0,) and getattr(answers, name).dtype == torch.long for name in NAMES)
    assert list(run.iter_stream(batches)) == []
    assert run(IMAGES[:0]).timesteps.shape == (0,)


def test_an_endless_stream_is_read_as_there_is_room():
    """Answers come in order, and what is held stays bounded: images that are there, answers that wait, one batch ahead."""
    asked = itertools.count()
    batch_size, size = 8, 5

    def forever():
        for number in asked:
            yield IMAGES[(torch.arange(size) + number * size) % COUNT]

    policy = Patience(steps=3)
    exits = policy.exit_steps(record(CountedNetwork(), [(IMAGES, torch.zeros(COUNT))], timesteps=TIMESTEPS))
    run = DynamicInference(RefillableNetwork(), policy, TIMESTEPS).iter_stream(forever(), batch_size, refill=0.0)
    given = 0
    for answers in run:
        count = len(answers.timesteps)
        assert count and torch.equal(answers.timesteps, exits[(torch.arange(count) + given) % COUNT])
        given += count
        read = int(repr(asked)[len("count(") : -1]) * size
        assert read - given <= batch_size * TIMESTEPS + size
        if given > 20 * COUNT:
            break


def test_answers_come_before_more_images_are_asked_for():
    """The first images are answered although the stream, asked for more than that, fails."""

    def failing():
        yield IMAGES[:8]
        raise RuntimeError("no more images")

    run = DynamicInference(RefillableNetwork(), FixedTime(timesteps=4), TIMESTEPS).iter_stream(failing(), batch_size=8)
    assert len(next(run).timesteps) == 8
    with pytest.raises(RuntimeError, match="no more images"):
        next(run)


def test_the_stream_cuts_batches_anew():
    stream = ImageStream([IMAGES[:3], (IMAGES[3:4], torch.zeros(1)), IMAGES[4:4], IMAGES[4:11]])
    taken = [stream.take(count) for count in (2, 4, 1)]
    assert [len(part) for part in taken] == [2, 4, 1] and torch.equal(torch.cat(taken), IMAGES[:7])
    assert not stream.exhausted
    assert torch.equal(stream.take(9), IMAGES[7:11])
    assert stream.exhausted and stream.take(1) is None


def test_a_network_can_be_used_again_after_a_stream_was_left(simulated):
    network, _, test = simulated(METHODS[0])
    policy = Patience(steps=2)
    run = DynamicInference(network, policy, 8)
    next(run.iter_stream([random_images(70, 3)], batch_size=16))
    assert torch.equal(run(random_images(70, 3)).timesteps, policy.exit_steps(test))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"refill": -0.1}, "refill must be between 0 and 1"),
        ({"refill": 1.5}, "refill must be between 0 and 1"),
        ({"buckets": (8, 32)}, "largest of buckets must be batch_size = 64"),
        ({"buckets": ()}, "largest of buckets"),
        ({"buckets": (0, 64)}, "largest of buckets"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    run = DynamicInference(RefillableNetwork(), Patience(steps=3), TIMESTEPS)
    for method in (run.stream, run.iter_stream):
        with pytest.raises(ValueError, match=message):
            method([IMAGES], **options)
