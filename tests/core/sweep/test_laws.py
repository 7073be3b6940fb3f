"""The fit of iso-FLOP grids, on made-up grids whose laws are known."""

import numpy as np
import pytest

from nanochat_core.sweep.fits import Noise, fit_parabola, interval, lowest_replicates, residual_noise
from nanochat_core.sweep.laws import TOKENS, Point, fit_laws
from nanochat_core.sweep.tables import law_texts

BUDGETS = (1e18, 2e18, 4e18, 8e18)
EXPONENT = 0.47  # of the made-up best size; tokens then grow with 0.53, since C = 6 N D
BEST_AT_FIRST = 2e8
BEND = 0.5  # bits per byte per decade squared around the optimum


def best_size(flops: float) -> float:
    return BEST_AT_FIRST * (flops / BUDGETS[0]) ** EXPONENT


def parabolic(*, sigma: float, seed: int = 0, num: int = 6, budgets: tuple[float, ...] = BUDGETS) -> list[Point]:
    """A grid that is a parabola in log size, plus noise."""
    generator = np.random.default_rng(seed)
    points = []
    for flops in budgets:
        for shift in np.linspace(-0.45, 0.45, num):  # decades around the optimum
            size = best_size(flops) * 10**shift
            loss = 0.9 * (flops / BUDGETS[0]) ** -0.05 + BEND * shift**2 + sigma * generator.standard_normal()
            points.append(point(flops, size, loss))
    return points


def point(flops: float, size: float, loss: float) -> Point:
    """By the rule of Chinchilla: 6 FLOPs per parameter and token. The other counts are fixed multiples."""
    params = {"all": round(1.5 * size), "without_embeddings": round(0.8 * size), "scaling": round(size)}
    tokens = round(flops / (6 * size))
    return Point(budget_flops=flops, flops=flops, params=params, tokens=tokens, bits_per_byte=loss)


def chinchilla(size: float, flops: float) -> float:
    """Hoffmann et al., arXiv 2203.15556, table A3: N ~ C^(0.2849 / (0.3392 + 0.2849)) = C^0.457."""
    return float(1.6934 + 406.4 / size**0.3392 + 410.7 / (flops / (6 * size)) ** 0.2849)


def test_exact_parabolas_give_the_exact_exponents_and_ratio() -> None:
    laws = fit_laws(parabolic(sigma=0.0))
    assert laws.laws["scaling"].exponent.value == pytest.approx(EXPONENT, abs=1e-6)
    assert laws.laws[TOKENS].exponent.value == pytest.approx(1 - EXPONENT, abs=1e-6)
    for flops, fit in zip(BUDGETS, laws.budgets, strict=True):
        best = fit.optima["scaling"].best
        assert best is not None
        assert best.value == pytest.approx(best_size(flops), rel=1e-5)
        assert fit.tokens_per_param["scaling"].value == pytest.approx(flops / 6 / best_size(flops) ** 2, rel=1e-5)
        assert fit.tokens_per_param["all"].value == pytest.approx(flops / 6 / best_size(flops) ** 2 / 1.5, rel=1e-5)
    assert laws.laws["scaling"].at(1e20) == pytest.approx(best_size(1e20), rel=1e-4)


def test_chinchillas_own_surface_gives_its_exponent_within_the_interval() -> None:
    budgets, generator, points = (1e19, 3e19, 1e20, 3e20), np.random.default_rng(3), []
    for flops in budgets:
        grid = np.logspace(7, 11, 4001)
        best = grid[np.argmin([chinchilla(size, flops) for size in grid])]
        for shift in np.linspace(-0.4, 0.4, 7):
            loss = chinchilla(best * 10**shift, flops) + 0.002 * generator.standard_normal()
            points.append(point(flops, best * 10**shift, loss))
    exponent = fit_laws(points).laws["scaling"].exponent
    assert exponent.low is not None
    assert exponent.high is not None
    assert exponent.low <= 0.2849 / (0.3392 + 0.2849) <= exponent.high
    assert exponent.high - exponent.low < 0.12


@pytest.mark.parametrize("num", [4, 6])
def test_intervals_cover_the_truth_about_as_often_as_they_say(num: int) -> None:
    """90% intervals on 200 noisy grids: 180 expected, 4.2 the standard deviation of that count."""
    hits = {"scaling": 0, TOKENS: 0, "ratio": 0}
    ratio = np.exp(np.mean([np.log(flops / 6 / best_size(flops) ** 2) for flops in BUDGETS]))
    truths = {"scaling": EXPONENT, TOKENS: 1 - EXPONENT, "ratio": ratio}
    for seed in range(200):
        laws = fit_laws(parabolic(sigma=0.006, seed=seed, num=num), seed=seed, num_replicates=250)
        found = {axis: laws.laws[axis].exponent for axis in ("scaling", TOKENS)}
        found["ratio"] = laws.tokens_per_param["scaling"]
        for name, value in found.items():
            assert value.low is not None
            assert value.high is not None
            hits[name] += value.low <= truths[name] <= value.high
    assert all(165 <= count <= 194 for count in hits.values()), hits


def test_three_cells_per_budget_have_no_interval_until_the_noise_is_told() -> None:
    points = parabolic(sigma=0.002, num=3)
    silent, told = fit_laws(points), fit_laws(points, noise_bpb=0.002)
    assert silent.noise is None
    assert silent.laws["scaling"].exponent.low is None
    exponent = told.laws["scaling"].exponent
    assert exponent.value == silent.laws["scaling"].exponent.value
    assert exponent.low is not None
    assert exponent.high is not None
    assert exponent.low < exponent.value < exponent.high


def test_a_wider_scatter_gives_a_wider_interval() -> None:
    points = parabolic(sigma=0.001, num=5)
    widths = []
    for noise in (0.001, 0.004):
        exponent = fit_laws(points, noise_bpb=noise).laws["scaling"].exponent
        assert exponent.low is not None
        assert exponent.high is not None
        widths.append(exponent.high - exponent.low)
    assert 3 < widths[1] / widths[0] < 6


def test_an_optimum_beyond_the_cells_is_said_and_not_used() -> None:
    points = [p for p in parabolic(sigma=0.0) if p.budget_flops != 8e18 or p.params["scaling"] < best_size(8e18)]
    laws = fit_laws(points)
    last = laws.budgets[-1].optima
    assert last["scaling"].best is None
    assert last["scaling"].problem == "beyond the largest"
    assert last[TOKENS].problem == "beyond the smallest"
    assert laws.laws["scaling"].num_budgets == 3
    assert laws.laws["scaling"].exponent.value == pytest.approx(EXPONENT, abs=1e-6)


def test_losses_that_only_fall_give_no_law() -> None:
    points = [point(flops, 1e8 * 2**k, 1.0 - 0.1 * k - 0.01 * k**2) for flops in BUDGETS for k in range(4)]
    laws = fit_laws(points)
    assert laws.laws == {}
    assert law_texts(laws)[0].startswith("No exponent")
    assert laws.budgets[0].optima["scaling"].problem == "opens downward"


def test_budgets_of_two_cells_are_kept_and_not_fitted() -> None:
    laws = fit_laws([p for p in parabolic(sigma=0.0) if p.budget_flops != 1e18] + parabolic(sigma=0.0)[:2])
    assert laws.budgets[0].num_cells == 2
    assert laws.budgets[0].optima == {}
    assert laws.laws["scaling"].num_budgets == 3
    assert fit_laws(parabolic(sigma=0.0)[:2]).laws == {}


def test_noise_of_the_residuals_is_the_noise_that_was_put_in() -> None:
    points = parabolic(sigma=0.01, num=60)
    columns = [[p for p in points if p.budget_flops == flops] for flops in BUDGETS]
    xs = [np.array([p.on("scaling") for p in column]) for column in columns]
    noise = residual_noise(xs, [np.array([p.bits_per_byte for p in column]) for column in columns])
    assert noise is not None
    assert noise.degrees == 4 * 57
    assert noise.sigma == pytest.approx(0.01, rel=0.15)


def test_replicates_are_a_function_of_the_seed() -> None:
    x, y = np.array([7.0, 7.5, 8.0, 8.5]), np.array([1.2, 1.0, 1.05, 1.4])
    drawn = [lowest_replicates([x], [y], Noise(0.01, 3), seed=seed, num=50) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    curve = fit_parabola(x, y)
    assert curve is not None
    assert np.median(drawn[0]) == pytest.approx(curve.lowest, abs=0.02)


def test_an_interval_needs_most_replicates_to_exist() -> None:
    good = np.linspace(0, 1, 100)
    assert interval(0.5, good).low == pytest.approx(0.05)
    assert interval(0.5, np.where(good > 0.8, np.nan, good)).low is None
