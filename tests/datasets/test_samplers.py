"""The samplers: the released one draw for draw, and the vectorised ones by their distribution."""

import functools
import random
from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from scipy import stats

from datasets import ClassAwareSampler
from datasets.samplers import (
    ClassAwareOrder,
    EffectiveNumberOrder,
    Order,
    ShuffledOrder,
    visits_every_class,
)

# A correct law fails with this chance for a fresh seed; the laws below fail by far if wrong.
SIGNIFICANCE = 1e-3

COUNTS = [9, 5, 3, 2, 1]  # 45 draws an epoch


def shuffled_labels(counts, seed=0):
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(seed).permutation(labels)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def released_epochs(labels, k, epochs, seed):
    """Returns epochs of the released sampler, as lists of positions."""
    random.seed(seed)
    sampler = ClassAwareSampler(labels, num_samples_cls=k)
    return [list(sampler) for _ in range(epochs)]


def vectorised_epochs(labels, k, epochs, seed):
    order = ClassAwareOrder(torch.from_numpy(labels), k, seeded(seed))
    return [order.draw().tolist() for _ in range(epochs)]


BOTH = pytest.mark.parametrize(
    "draw_epochs", [released_epochs, vectorised_epochs], ids=["released", "vectorised"]
)

pytestmark = pytest.mark.usefixtures("python_random")


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("classes", ["c10", "c100"])
def test_the_released_sampler_equals_the_golden_vectors(golden, classes, k):
    arrays = golden("class_aware_sampler")
    case = f"{classes}/k{k}"
    random.seed(int(arrays[f"{case}/seed"]))
    sampler = ClassAwareSampler(arrays[f"{classes}/labels"], num_samples_cls=k)
    assert len(sampler) == arrays[f"{case}/len"]
    np.testing.assert_array_equal(list(sampler), arrays[f"{case}/indices_epoch1"])
    np.testing.assert_array_equal(list(sampler), arrays[f"{case}/indices_epoch2"])


def test_every_golden_case_is_tested(golden):
    cases = {key.rpartition("/")[0] for key in golden("class_aware_sampler")}
    assert cases - {"c10", "c100"} == {f"{c}/k{k}" for c in ("c10", "c100") for k in (1, 2, 4)}


def visits_of(epochs, k):
    """Returns the visits of all epochs. None stands for a draw that the end of an epoch has cut
    off."""
    return [
        (epoch[start : start + k] + [None] * k)[:k]
        for epoch in epochs
        for start in range(0, len(epoch), k)
    ]


def class_order(labels, visits):
    return [int(labels[visit[0]]) for visit in visits]


def draws_by_class(labels, visits):
    """Returns the stream of draws of each class; the ends of epochs leave gaps in it (None)."""
    streams = {label: [] for label in range(labels.max() + 1)}
    for visit, label in zip(visits, class_order(labels, visits), strict=True):
        streams[label] += visit
    return streams


def full_blocks(stream, length):
    return [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)]


@BOTH
@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, 45, 50])
def test_an_epoch_has_the_largest_class_times_the_number_of_classes_draws(draw_epochs, k):
    labels = shuffled_labels(COUNTS)
    assert [len(epoch) for epoch in draw_epochs(labels, k, 3, seed=0)] == [45, 45, 45]
    assert len(ClassAwareSampler(labels, k)) == 45
    assert len(ClassAwareOrder(torch.from_numpy(labels), k, seeded(0))) == 45


@BOTH
@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
def test_a_visit_draws_k_images_of_one_class(draw_epochs, k):
    labels = shuffled_labels(COUNTS)
    visits = visits_of(draw_epochs(labels, k, 6, seed=1), k)
    assert len(visits) == 6 * -(-45 // k)
    for visit in visits:
        assert len({labels[i] for i in visit if i is not None}) == 1


@BOTH
@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
def test_classes_are_visited_in_full_cycles_across_epochs(draw_epochs, k):
    labels = shuffled_labels(COUNTS)
    order = class_order(labels, visits_of(draw_epochs(labels, k, 7, seed=2), k))
    cycles = full_blocks(order, 5)
    assert len(cycles) == 7 * -(-45 // k) // 5
    assert all(sorted(cycle) == [0, 1, 2, 3, 4] for cycle in cycles)
    assert len(set(map(tuple, cycles))) > 1


@BOTH
@pytest.mark.parametrize("k", [1, 2, 3, 4, 7])
def test_images_of_a_class_are_drawn_in_full_cycles_across_visits_and_epochs(draw_epochs, k):
    labels = shuffled_labels(COUNTS)
    visits = visits_of(draw_epochs(labels, k, 7, seed=3), k)
    for label, stream in draws_by_class(labels, visits).items():
        images = set(np.flatnonzero(labels == label).tolist())
        cycles = full_blocks(stream, len(images))
        assert len(cycles) >= 5
        for cycle in cycles:
            drawn = [image for image in cycle if image is not None]
            assert len(set(drawn)) == len(drawn) and set(drawn) <= images
            assert set(drawn) == images or None in cycle
        if len(images) > 1:
            assert len(set(map(tuple, cycles))) > 1


@functools.cache
def law_of_cycles(draw_epochs, k):
    """Returns how often each pair of orders occurs in two successive cycles, of classes and of a
    class's images."""
    labels = shuffled_labels([3, 3, 3])
    visits = visits_of(draw_epochs(labels, k, 4000, seed=4), k)
    streams = {"classes": class_order(labels, visits), **draws_by_class(labels, visits)}
    counts = []
    for stream in streams.values():
        items = sorted(set(stream))
        cycles = [tuple(cycle) for cycle in full_blocks(stream, 3)]
        pairs = Counter(pairwise(cycles))
        possible = list(permutations(items))
        assert set(cycles) == set(possible)
        counts.append([pairs[a, b] for a in possible for b in possible])
    return np.array(counts)


@BOTH
@pytest.mark.parametrize("k", [1, 3])
def test_every_order_of_a_cycle_is_equally_likely_after_every_other(draw_epochs, k):
    """There are 3 classes of 3 images, so no epoch ends within a visit: 36 pairs of orders each."""
    for counts in law_of_cycles(draw_epochs, k):
        assert counts.sum() > 3000 // k
        assert stats.chisquare(counts).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("k", [1, 3])
def test_the_vectorised_cycles_have_the_released_frequencies(k):
    laws = (law_of_cycles(draw, k) for draw in (released_epochs, vectorised_epochs))
    for table in zip(*laws, strict=True):
        assert stats.chi2_contingency(table).pvalue > SIGNIFICANCE


def first_visits(draw_epochs, runs):
    """Returns how often each pair of images is the first visit of a fresh sampler."""
    labels = shuffled_labels([4, 3, 2])
    outcomes = Counter(tuple(draw_epochs(labels, 2, 1, seed)[0][:2]) for seed in range(runs))
    by_class = [np.flatnonzero(labels == label).tolist() for label in range(3)]
    possible = [pair for images in by_class for pair in permutations(images, 2)]
    assert set(outcomes) <= set(possible)
    chances = [1 / 3 / (n * (n - 1)) for n in (4, 3, 2) for _ in range(n * (n - 1))]
    return np.array([outcomes[pair] for pair in possible]), np.array(chances)


def test_a_fresh_sampler_starts_with_any_class_and_any_of_its_images():
    tables = []
    for draw_epochs in (released_epochs, vectorised_epochs):
        counts, chances = first_visits(draw_epochs, 3000)
        assert stats.chisquare(counts, chances * 3000).pvalue > SIGNIFICANCE
        tables.append(counts)
    assert stats.chi2_contingency(tables).pvalue > SIGNIFICANCE


def test_a_long_run_draws_every_class_and_every_image_of_a_class_equally_often():
    labels = shuffled_labels(COUNTS)
    draws = np.concatenate(vectorised_epochs(labels, 4, 400, seed=7))
    by_image = np.bincount(draws, minlength=len(labels))
    by_class = np.bincount(labels[draws])
    # Cycles leave less to chance than independent draws: an epoch's end cuts at most 3 draws.
    np.testing.assert_allclose(by_class, len(draws) / 5, rtol=0.02)
    for label, count in enumerate(COUNTS):
        np.testing.assert_allclose(by_image[labels == label], by_class[label] / count, rtol=0.06)


def test_an_order_depends_on_its_generator_alone():
    labels = torch.from_numpy(shuffled_labels(COUNTS))
    first = ClassAwareOrder(labels, 4, seeded(0)).draw()
    torch.manual_seed(1), random.seed(1)
    before = torch.get_rng_state()
    assert torch.equal(ClassAwareOrder(labels, 4, seeded(0)).draw(), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(ClassAwareOrder(labels, 4, seeded(2)).draw(), first)
    assert first.dtype == torch.int64 and first.device.type == "cpu"


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, 45, 50])
def test_each_visit_of_an_order_takes_the_next_images_of_its_class(k):
    """The classes draw in the order of their labels. So saved runs go on with the same images."""
    labels = torch.from_numpy(shuffled_labels(COUNTS))
    order, same = (ClassAwareOrder(labels, k, seeded(3)) for _ in range(2))
    for _ in range(4):
        visits = same.classes.take(-(-45 // k)).tolist()
        streams = [
            iter(cycle.take(visits.count(label) * k).tolist())
            for label, cycle in enumerate(same.images)
        ]
        drawn = [next(streams[label]) for label in visits for _ in range(k)]
        assert order.draw().tolist() == drawn[:45]


@pytest.mark.parametrize("finished", [0, 1, 2, 5])
@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_a_saved_state_continues_the_class_aware_order_exactly(tmp_path, k, finished):
    labels = torch.from_numpy(shuffled_labels(COUNTS))
    generator = seeded(0)
    order = ClassAwareOrder(labels, k, generator)
    for _ in range(finished):
        order.draw()
    state = {"order": order.state_dict(), "generator": generator.get_state()}
    torch.save(state, tmp_path / "state.pt")
    expected = [order.draw() for _ in range(3)]

    generator = seeded(99)
    order = ClassAwareOrder(labels, k, generator)
    order.draw()  # another past, to be forgotten
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    order.load_state_dict(state["order"])
    generator.set_state(state["generator"])
    for epoch in expected:
        assert torch.equal(order.draw(), epoch)


@pytest.mark.parametrize("k", [1, 2, 4, 9, 45, 100])
def test_every_epoch_of_the_class_aware_order_moves_its_generator(k):
    """Epochs drawn ahead are recognised by that."""
    generator = seeded(0)
    order = ClassAwareOrder(torch.from_numpy(shuffled_labels(COUNTS)), k, generator)
    for _ in range(20):
        before = generator.get_state()
        order.draw()
        assert not torch.equal(generator.get_state(), before)


def test_a_sequential_order_is_the_order_of_the_set():
    order = Order(5)
    assert len(order) == 5 and order.draw().tolist() == order.draw().tolist() == [0, 1, 2, 3, 4]


def test_a_shuffled_order_has_every_image_once_in_any_order():
    order = ShuffledOrder(3, seeded(0))
    counts = Counter(tuple(order.draw().tolist()) for _ in range(1200))
    assert len(order) == 3 and set(counts) == set(permutations(range(3)))
    assert stats.chisquare(list(counts.values())).pvalue > SIGNIFICANCE


def test_resampling_follows_the_effective_numbers():
    counts = [4000, 400, 40]
    labels = shuffled_labels(counts)
    order = EffectiveNumberOrder(torch.from_numpy(labels), seeded(0))
    epochs = [order.draw() for _ in range(60)]
    assert all(len(epoch) == len(order) == 4440 for epoch in epochs)
    draws = torch.cat(epochs).numpy()
    # β = 0.9999: the mass of a class is n over its effective number.
    masses = np.array([n * (1 - 0.9999) / (1 - 0.9999**n) for n in counts])
    expected = len(draws) * masses / masses.sum()
    assert stats.chisquare(np.bincount(labels[draws]), expected).pvalue > SIGNIFICANCE
    # The test can tell: classes drawn equally often fail it.
    equal = np.full(3, len(draws) / 3)
    assert stats.chisquare(np.bincount(labels[draws]), equal).pvalue < 1e-9
    for label in range(3):
        by_image = np.bincount(draws, minlength=len(labels))[labels == label]
        assert stats.chisquare(by_image).pvalue > SIGNIFICANCE


def test_resampling_follows_the_effective_numbers_of_308_000_images():
    """Weights added up in float32 draw the large classes 7 % too rarely."""
    counts = np.repeat([1000, 1], [300, 8000])
    labels = shuffled_labels(counts)
    draws = EffectiveNumberOrder(torch.from_numpy(labels), seeded(0)).draw().numpy()
    masses = counts / (1 - 0.9999**counts)
    large = int((labels[draws] < 300).sum())
    share = masses[:300].sum() / masses.sum()
    assert stats.binomtest(large, len(draws), share).pvalue > SIGNIFICANCE


def test_resampling_draws_with_replacement():
    labels = torch.from_numpy(shuffled_labels([50, 2]))
    draws = EffectiveNumberOrder(labels, seeded(0)).draw()
    assert draws.bincount().max() > 5


@pytest.mark.parametrize("k", [0, -1])
def test_a_visit_of_no_images_is_an_error(k):
    with pytest.raises(ValueError, match=f"a visit draws at least one image, not {k}"):
        ClassAwareSampler(shuffled_labels(COUNTS), num_samples_cls=k)


def test_classes_without_images_are_an_error_that_names_them():
    labels = np.array([0, 2, 2, 5])
    with pytest.raises(ValueError, match="classes without images: 1, 3, 4"):
        ClassAwareSampler(labels)
    with pytest.raises(ValueError, match="classes without images: 1, 3, 4"):
        ClassAwareOrder(torch.from_numpy(labels), 4, seeded(0))


@pytest.mark.parametrize("counts", [(5, 1), (7, 2, 1), (6, 6, 2, 1), (11, 5, 5, 3, 1)])
def test_class_aware_sampling_visits_every_class_exactly_where_the_rule_says_so(counts):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    for k in range(1, max(counts) + 1):
        generator = torch.Generator().manual_seed(k)
        order = ClassAwareOrder(labels, k, generator)
        epochs = [len(labels[order.draw()].unique()) == len(counts) for _ in range(60)]
        assert all(epochs) == visits_every_class(len(counts), max(counts), k), k
