"The estimators of deepmr.mr, robust and draws_mr against R's numbers, brute force, and on awkward data."

import contextlib
import dataclasses
import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from deepmr.core import InputError
from deepmr.draws_mr import (
    bootstrap_slopes,
    divw_draws,
    draw_slopes,
    mask_bootstrap,
    shrunk_correlation,
    slope_matrix,
    slope_per_draw,
)
from deepmr.mr import (
    at_roundoff,
    conditional_f,
    divw,
    egger,
    exposure_covariance,
    from_effects,
    gls,
    i2_gx,
    ivw,
    leave_one_out,
    mvmr,
    steiger,
    steiger_test,
)
from deepmr.robust import mode_based, raps, weighted_median
from deepmr.robust_fits import m_scale, mm_regression

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / 'shared' / 'reference'
REFERENCE = json.loads((ROOT / 'tests' / 'data' / 'mr_reference.json').read_text())
STEIGER = REFERENCE.pop('steiger')
RTOL = 1e-9
RNG = np.random.default_rng(0)
COLUMNS = ('bx', 'bxse', 'by', 'byse')


def same(got, want, what, rtol=RTOL):
    np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-300, err_msg=what)


def compare(data, r: dict):
    "Every closed form of R's MendelianRandomization that the file holds."
    for model in ('fixed', 'random'):
        for weights in ('simple', 'delta'):
            for ours, theirs in (('normal', 'normal'), ('t', 't-dist')):
                key = f'mr_ivw(model={model},weights={weights},distribution={theirs})'
                want, got = r[key], ivw(*data, model, weights, ours)
                d = got.diagnostics
                for name, value in dict(
                    Estimate=got.estimate,
                    StdError=got.se,
                    CILower=got.ci_low,
                    CIUpper=got.ci_high,
                    Pvalue=got.p,
                    RSE=d['residual_se'],
                    Fstat=d['mean_f'],
                ).items():
                    same(value, want[name], f'{key} {name}')
                if d['q_df'] == got.n - 1:  # R inflates Q by the rows of weight 0
                    same(d['q'], want['Heter.Stat'][0], key)
                    same(d['q_p'], want['Heter.Stat'][1], key)
    for ours, theirs in (('normal', 'normal'), ('t', 't-dist')):
        key = f'mr_egger(distribution={theirs})'
        want, got = r[key], egger(*data, ours)
        d = got.diagnostics
        for name, value in {
            'Estimate': got.estimate,
            'StdError.Est': got.se,
            'CILower.Est': got.ci_low,
            'CIUpper.Est': got.ci_high,
            'Intercept': d['intercept'],
            'StdError.Int': d['intercept_se'],
            'CILower.Int': d['intercept_ci_low'],
            'CIUpper.Int': d['intercept_ci_high'],
            'Pvalue.Int': d['intercept_p'],
            'RSE': d['residual_se'],
            'I.sq': d['i2_gx'],
        }.items():
            same(value, want[name], f'{key} {name}')
        same(d['q_prime'], want['Heter.Stat'][0], key)
        # R takes 1 minus the distribution function: 0, or a few digits only, far in the tail
        assert got.p == pytest.approx(want['Pvalue.Est'], rel=1e-6, abs=1e-15)


@pytest.mark.parametrize('name', list(REFERENCE))
def test_closed_forms_agree_with_r(name):
    d = REFERENCE[name]
    compare([d[c] for c in COLUMNS], d['r'])
    if 'TwoSampleMR::Isq(abs(bx),bxse)' in d['r']:
        same(i2_gx(d['bx'], d['bxse']), d['r']['TwoSampleMR::Isq(abs(bx),bxse)'], 'I2_GX')


@pytest.mark.parametrize(
    'inputs,outputs',
    [('sim1_dropout_n3000', 'mr_sim1_dropout_n3000'), ('sim2_roundoff_n3000', 'mr_sim2_roundoff_keep')],
)
def test_closed_forms_agree_with_r_on_whole_windows(inputs, outputs):
    if not (SHARED / 'outputs' / f'{outputs}.json').exists():
        pytest.skip('the shared reference numbers are absent')
    d = pd.read_csv(SHARED / 'inputs' / f'{inputs}.csv')
    r = json.loads((SHARED / 'outputs' / f'{outputs}.json').read_text())
    # the rows that R was not given are exactly those that are dropped here
    compare([d[c] for c in COLUMNS], r)
    if 'keep' in d:
        assert ivw(*(d[c] for c in COLUMNS)).diagnostics['n_dropped'] == (d.keep == 0).sum()
    codes = egger(*(d[c] for c in COLUMNS)).codes
    if 'roundoff' in inputs:
        assert 'se_at_roundoff' in codes and 'weak_instruments' not in codes
    else:
        assert {'weak_instruments', 'low_i2gx', 'underdispersed'} <= set(
            codes
        ) and 'se_at_roundoff' not in codes


def test_sim4_draws_lead_to_its_summary():
    if not (SHARED / 'inputs' / 'sim4_drawsX_50x60.csv').exists():
        pytest.skip('the shared draws are absent')
    x, y = (pd.read_csv(SHARED / 'inputs' / f'sim4_draws{v}_50x60.csv').to_numpy() for v in 'XY')
    d = REFERENCE['sim4_small_n60']
    r = weighted(x, y, d['pos'])
    # SE = SD over draws there: all weights differ by one factor, so the slope is the same
    same(
        r.estimate,
        d['r']['mr_ivw(model=fixed,weights=simple,distribution=normal)']['Estimate'],
        'slope',
        1e-6,
    )
    assert r.ci_low < 0.8 < r.ci_high and r.diagnostics['n_clusters'] == 20


# ----------------------------------------------------------------- properties
def mutations(seed, n=40, theta=0.7):
    rng = np.random.default_rng(seed)
    bx, bxse, byse = rng.normal(0, 0.1, n), rng.uniform(0.005, 0.02, n), rng.uniform(0.005, 0.02, n)
    return bx + bxse * rng.normal(size=n), bxse, theta * bx + byse * rng.normal(size=n), byse


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(0.01, 100))
def test_units(seed, a, b):
    "Exposure in units of a, outcome in units of b: the slope is in units of b/a, and nothing else moves."
    bx, bxse, by, byse = mutations(seed)
    for method in (ivw, egger):
        r, s = method(bx, bxse, by, byse), method(a * bx, a * bxse, b * by, b * byse)
        same([s.estimate * a / b, s.se * a / b, s.p], [r.estimate, r.se, r.p], method.__name__, 1e-7)
        same(
            [s.diagnostics[k] for k in ('mean_f', 'i2_gx', 'q')],
            [r.diagnostics[k] for k in ('mean_f', 'i2_gx', 'q')],
            method.__name__,
            1e-7,
        )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_flipping_mutations_changes_neither_ivw_nor_egger(seed):
    bx, bxse, by, byse = mutations(seed)
    flip = np.where(np.random.default_rng(seed).random(len(bx)) < 0.5, -1, 1)
    for method in (ivw, egger):
        same(
            method(flip * bx, bxse, flip * by, byse).estimate,
            method(bx, bxse, by, byse).estimate,
            method.__name__,
        )
    # but the unflipped line does depend on the coding, which is why it is reported
    a, b = egger(bx, bxse, by, byse).diagnostics, egger(flip * bx, bxse, flip * by, byse).diagnostics
    assert a['slope_unflipped'] != b['slope_unflipped']


def test_orientation_diagnostics():
    data = mutations(3)
    r, plain = egger(*data), egger(*data, orient='none')
    same(r.diagnostics['slope_unflipped'], plain.estimate, 'unflipped')
    same(r.diagnostics['orientation_shift'], r.estimate - plain.estimate, 'shift')
    same(r.diagnostics['orientation_shift_se'], (r.estimate - plain.estimate) / r.se, 'shift in SE')


def test_line_against_statsmodels():
    sm = pytest.importorskip('statsmodels.api')
    bx, bxse, by, byse = mutations(5)
    fit = sm.WLS(by, sm.add_constant(bx), weights=byse**-2).fit()
    mine = egger(bx, bxse, by, byse, orient='none')
    d, widen = mine.diagnostics, max(1, np.sqrt(fit.scale))
    same([d['intercept'], mine.estimate, d['q_prime']], [*fit.params, fit.ssr], 'WLS')
    same([d['intercept_se'], mine.se], fit.bse / np.sqrt(fit.scale) * widen, 'WLS SE')


def test_random_effects_never_shrink_the_error():
    for seed in range(20):
        bx, bxse, by, byse = mutations(seed)
        for inflate in (0.2, 5):
            fixed, rand = (ivw(bx, bxse, by, byse * inflate, m) for m in ('fixed', 'random'))
            same(rand.se, fixed.se * max(1, rand.diagnostics['residual_se']), 'SE')


def test_coverage_of_closed_forms_where_they_are_meant_to_hold():
    "Independent errors, strong instruments: 95 % intervals cover about 95 %."
    hits = {'ivw': 0, 'egger': 0}
    for seed in range(400):
        data = mutations(seed)
        for method in (ivw, egger):
            r = method(*data, distribution='t')
            hits[method.__name__] += r.ci_low < 0.7 < r.ci_high
    assert 0.9 < hits['ivw'] / 400 < 0.99 and 0.85 < hits['egger'] / 400 < 0.99


# ------------------------------------------------------------- mask bootstrap
def draws(seed, k=50, m=300, theta=0.6, noise=0.02):
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 0.1, m)
    load, z = rng.normal(size=(2, m)), rng.normal(size=(k, 2))
    x = true + noise * (z @ load + rng.normal(size=(k, m)))
    y = theta * true + noise * (z[:, ::-1] @ load + rng.normal(size=(k, m)))
    return x, y, np.repeat(np.arange(m // 3), 3)


def weighted(*args, **options):
    "`mask_bootstrap` with the weights of IVW."
    return mask_bootstrap(*args, **{'weights': 'outcome'} | options)


def counts(rng, n_boot, n):
    return np.stack([np.bincount(taken, minlength=n) for taken in rng.integers(n, size=(n_boot, n))])


def test_bootstrap_equals_resampling():
    x, y, pos = draws(0, k=6, m=12)
    w, n = np.random.default_rng(1).uniform(1, 2, 12), 25
    shuffled = np.random.default_rng(2).permutation(12)  # columns need not come sorted by position
    for two_way in (True, False):
        fast = bootstrap_slopes(x[:, shuffled], y[:, shuffled], w[shuffled], pos[shuffled], n, 5, two_way)
        rng = np.random.default_rng(5)
        a, c = counts(rng, n, 6), counts(rng, n, 4) if two_way else np.ones((n, 4), int)
        for i in range(n):
            rows = np.repeat(np.arange(6), a[i])
            cols = np.concatenate([np.tile(np.flatnonzero(pos == p), c[i, p]) for p in range(4)])
            bx, by = x[rows].mean(0)[cols], y[rows].mean(0)[cols]
            same(fast[i], np.sum(w[cols] * bx * by) / np.sum(w[cols] * bx**2), 'replicate')


def test_counts_of_draws_are_multinomial():
    # with an exposure of 1 and an outcome of 8^k in draw k, a replicate's slope spells its counts in base 8
    slopes = bootstrap_slopes(np.ones((7, 1)), 8.0 ** np.arange(7)[:, None], np.ones(1), n_boot=4000, two_way=False)
    c = np.rint(7 * slopes).astype(int)[:, None] // 8 ** np.arange(7) % 8
    assert (c.sum(1) == 7).all()
    np.testing.assert_allclose(c.mean(0), 1, atol=0.06)
    np.testing.assert_allclose(c.var(0), 1 - 1 / 7, atol=0.08)


def test_bootstrap_is_reproducible_and_independent_of_chunks():
    x, y, pos = draws(1)
    assert weighted(x, y, pos, n_boot=100, seed=4) == weighted(x, y, pos, n_boot=100, seed=4)
    assert (
        weighted(x, y, pos, n_boot=100, seed=4).se != weighted(x, y, pos, n_boot=100, seed=5).se
    )
    w = np.ones(300)
    same(
        bootstrap_slopes(x, y, w, pos, 50, 0, chunk_values=700),
        bootstrap_slopes(x, y, w, pos, 50, 0),
        'chunks',
        1e-12,
    )


def test_estimate_is_ivw_and_equal_weights_is_least_squares():
    x, y, pos = draws(2)
    se = [v.std(0, ddof=1) / 50**0.5 for v in (x, y)]
    same(
        weighted(x, y, pos, n_boot=20).estimate, ivw(x.mean(0), se[0], y.mean(0), se[1]).estimate, 'IVW'
    )
    r = weighted(x, y, pos, n_boot=20, weights='equal')
    same(r.estimate, x.mean(0) @ y.mean(0) / (x.mean(0) @ x.mean(0)), 'OLS')
    same(r.diagnostics['estimate_equal_weights'], r.estimate, 'OLS')


@pytest.mark.parametrize('interval', ['shifted', 'normal'])
def test_bootstrap_covers_with_shared_masks(interval):
    "Noise shared by all mutations of a draw: the closed form covers far too rarely, the bootstrap does not."
    hits, closed, n = 0, 0, 120
    for seed in range(n):
        x, y, pos = draws(seed, noise=0.05)
        r = weighted(x, y, pos, n_boot=200, two_way=False, interval=interval)
        se = [v.std(0, ddof=1) / 50**0.5 for v in (x, y)]
        c = ivw(x.mean(0), se[0], y.mean(0), se[1])
        hits += r.ci_low < 0.6 < r.ci_high
        closed += c.ci_low < 0.6 < c.ci_high
    assert hits / n > 0.88 and closed < hits


def test_positions_widen_the_interval_when_they_matter():
    x, y, pos = draws(3)
    y = y + 0.1 * np.random.default_rng(0).normal(size=100)[pos] * np.sign(x.mean(0))
    assert weighted(x, y, pos).se > 2 * weighted(x, y, pos, two_way=False).se
    assert weighted(x, y, pos // 10).diagnostics['n_clusters'] == 10


def test_percentile_interval_is_of_the_replicates():
    x, y, pos = draws(4)
    r = weighted(x, y, pos, n_boot=200, interval='percentile', level=0.8)
    se = y.std(0, ddof=1)
    reps = bootstrap_slopes(x, y, se**-2, pos, 200, 0)
    same([r.ci_low, r.ci_high], np.quantile(reps, [0.1, 0.9]), 'quantiles', 1e-6)


def test_a_whole_window_is_fast_and_small():
    x, y, pos = draws(5, m=3000)
    weighted(x, y, pos, n_boot=20)
    started = time.perf_counter()
    weighted(x.astype(np.float32), y.astype(np.float32), pos)
    assert time.perf_counter() - started < 4  # 0.2 s alone on one core
    tracemalloc.start()
    weighted(x, y, pos)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


def test_bootstrap_drops_still_and_broken_mutations():
    x, y, pos = draws(6)
    x[:, 0], y[:, 1], x[3, 2], y[4, 3] = 0.1, 0.0, np.nan, np.inf
    r = weighted(x, y, pos)
    assert (r.n, r.diagnostics['n_dropped']) == (296, 4) and 'dropped_unusable' in r.codes
    same(r.estimate, weighted(x[:, 4:], y[:, 4:], pos[4:]).estimate, 'kept')


def test_bootstrap_warnings():
    x, y, pos = draws(7)
    assert (
        'no_positions' in weighted(x, y).codes
        and 'no_positions' not in weighted(x, y, two_way=False).codes
    )
    assert 'few_draws' in weighted(x[:5], y[:5], pos).codes
    assert weighted(x, y, pos).codes == ()
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.normal(size=(50, 300)), rng.normal(size=(50, 300))
    true = 0.002 * rng.normal(size=300)
    r = weighted(true + noise[0], 0.6 * true + 1e-3 * noise[1], pos)
    assert {'noise_bias', 'weak_instruments'} <= set(r.codes)
    assert r.estimate < r.diagnostics['bias_corrected'] < 0.7 and r.ci_high > 0.5
    few = weighted(x[:, :2], y[:, :2], pos[:2])
    assert np.isnan(few.estimate) and 'too_few_mutations' in few.codes
    off = 0.01 * rng.normal(size=300) + 1e-8 * rng.normal(size=(50, 300))
    assert 'se_at_roundoff' in weighted(off, 0.6 * off + 1e-8 * rng.normal(size=(50, 300)), pos).codes


# ------------------------------------------------------------------- warnings
def test_roundoff_rule():
    rng = np.random.default_rng(0)
    effect = rng.normal(0, 0.01, 500)
    assert at_roundoff(effect, np.abs(rng.normal(1e-8, 2e-9, 500)))
    assert not at_roundoff(effect, np.full(500, 1e-3))
    assert not at_roundoff(effect * 1e-9, np.full(500, 1e-11))  # small units, real noise
    assert at_roundoff(effect * 1e6, np.full(500, 1e-2), scale=1e6)  # a model that predicts counts
    assert not at_roundoff(np.array([]), np.array([]))


def test_scarce_data_are_no_exception():
    one = ([0.1], [0.01], [0.1], [0.01])
    for method in (ivw, egger):
        r = method(*one)
        assert np.isnan([r.estimate, r.se, r.ci_low, r.ci_high, r.p]).all() and r.n == 1
        assert r.codes == ('too_few_mutations',)
        gone = method([0.1, 0.2, 0.3, 0.4], [np.nan] * 4, [0.1, 0.2, 0.3, 0.4], [0.01] * 4)
        assert gone.n == 0 and gone.codes == ('dropped_unusable', 'too_few_mutations')
    assert 'no_exposure_effect' in ivw([0, 0, 0], [0.1] * 3, [1, 2, 3], [0.1] * 3).codes
    assert 'no_exposure_variation' in egger([0.1, -0.1, 0.1], [0.1] * 3, [1, 2, 3], [0.1] * 3).codes
    assert 'too_few_mutations' in ivw([0, 0, 0.1], [0.1] * 3, [1, 2, 3], [0.1] * 3, weights='delta').codes


def test_three_mutations_are_enough():
    for method in (ivw, egger):
        assert np.isfinite(method([0.1, 0.2, 0.4], [0.01] * 3, [0.1, 0.3, 0.5], [0.01] * 3).estimate)


def test_result_is_frozen_and_plain():
    for r in (ivw(*mutations(0)), egger(*mutations(0)), mask_bootstrap(*draws(0), n_boot=20)):
        with pytest.raises(AttributeError):
            r.estimate = 0
        json.dumps(dataclasses.asdict(r))


OK = dict(bx=[0.1, 0.2, 0.3], bxse=[0.01] * 3, by=[0.1, 0.2, 0.2], byse=[0.01] * 3)


@pytest.mark.parametrize(
    'change,message',
    [
        (dict(by=[1, 2]), '^by: found 2 values, expected 3 as in bx$'),
        (dict(bxse=[0.1, -0.1, 0.1]), '^bxse: found -0.1 at index 1'),
        (dict(byse=[0, 0, 0]), '^byse: found zero everywhere.*dropout'),
        (dict(bx=['a', 'b', 'c']), '^bx: found .* values, expected numbers'),
        (dict(bx=[]), '^bx: found an empty array'),
        (dict(bx=[[0.1, 0.2, 0.3]]), r'^bx: found shape \(1, 3\)'),
        (dict(by=[None, 1, 2]), '^by: found object values'),
        (dict(bx=[[1], [1, 2]]), '^bx: found no array'),
        (dict(distribution='z'), "^distribution: found 'z', expected one of normal, t"),
        (dict(level=0), '^level: found 0'),
    ],
)
def test_bad_input(change, message):
    for method in (ivw, egger):
        with pytest.raises(InputError, match=message):
            method(**OK | change)


def test_bad_options():
    for kw, message in ((dict(model='mixed'), '^model: found'), (dict(weights='x'), '^weights: found')):
        with pytest.raises(InputError, match=message):
            ivw(**OK, **kw)
    with pytest.raises(InputError, match=r'^orient: found'):
        egger(**OK, orient='up')


@pytest.mark.parametrize(
    'args,kw,message',
    [
        ((np.ones((5, 4)), RNG.random((5, 4))), {}, '^draws_x: found the same numbers in all 5 draws.*dropout'),
        (
            (RNG.random((5, 4)), RNG.random((4, 4))),
            {},
            r'^draws_y: found shape \(4, 4\), expected \(5, 4\) as in draws_x',
        ),
        ((RNG.random(5), RNG.random(5)), {}, r'^draws_x: found shape \(5,\)'),
        ((RNG.random((1, 5)), RNG.random((1, 5))), {}, r'^draws_x: found shape \(1, 5\)'),
        ((RNG.random((5, 0)), RNG.random((5, 0))), {}, r'^draws_x: found shape \(5, 0\)'),
        ((np.array([['a', 'b']] * 3), RNG.random((3, 2))), {}, '^draws_x: found'),
        (
            (RNG.random((5, 4)), RNG.random((5, 4))),
            dict(positions=[1, 2]),
            r'^positions: found shape \(2,\), expected \(4,\)',
        ),
        ((RNG.random((5, 4)), RNG.random((5, 4))), dict(n_boot=1), '^n_boot: found 1'),
        ((RNG.random((5, 4)), RNG.random((5, 4))), dict(interval='bca'), "^interval: found 'bca'"),
    ],
)
def test_bad_draws(args, kw, message):
    with pytest.raises(InputError, match=message):
        mask_bootstrap(*args, **kw)


# ------------------------------------------------- robust, medians, modes, debiased, correlated: R's numbers
SHARED_PAIRS = [
    ('sim1_dropout_n3000', 'mr_sim1_dropout_n3000'),
    ('sim2_roundoff_n3000', 'mr_sim2_roundoff_keep'),
]


def both_sources():
    "Name, four vectors and R's results: from the project's own file, then the shared windows where there are any."
    for name, d in REFERENCE.items():
        yield name, [np.array(d[c]) for c in COLUMNS], d['r']
    for inputs, outputs in SHARED_PAIRS:
        if (SHARED / 'outputs' / f'{outputs}.json').exists():
            d = pd.read_csv(SHARED / 'inputs' / f'{inputs}.csv')
            r = json.loads((SHARED / 'outputs' / f'{outputs}.json').read_text())
            yield inputs, [d[c].to_numpy() for c in COLUMNS], r


def test_robust_fits_are_lmrobs():
    for name, data, r in both_sources():
        want, got = r['set.seed(1); mr_ivw(robust=TRUE)'], ivw(*data, robust=True)
        same([got.estimate, got.se], [want['Estimate'], want['StdError']], name, 1e-5)
        # lmrob stops its search for the scale early: ours is never larger, and at most 5e-5 smaller
        ratio = got.diagnostics['residual_se'] / want['RSE']
        assert 1 - 5e-5 < ratio < 1 + 1e-8, name
        want, got = r['set.seed(1); mr_egger(robust=TRUE)'], egger(*data, robust=True)
        d = got.diagnostics
        same(
            [got.estimate, got.se, d['intercept_se']],
            [want[k] for k in ('Estimate', 'StdError.Est', 'StdError.Int')],
            name,
            1e-5,
        )
        # an intercept may be close to zero: a fraction of its error
        assert abs(d['intercept'] - want['Intercept']) < 1e-4 * want['StdError.Int'], name


def test_robust_does_not_depend_on_the_seed_or_on_units():
    for seed in range(4):
        bx, bxse, by, byse = mutations(seed, n=60)
        by = by + np.where(np.arange(60) < 15, 0.5, 0)
        a = ivw(bx, bxse, by, byse, robust=True)
        b = ivw(bx * 1e6, bxse * 1e6, by * 1e-3, byse * 1e-3, robust=True, seed=9)
        same([b.estimate * 1e9, b.se * 1e9], [a.estimate, a.se], 'units', 1e-6)
        assert abs(a.estimate - 0.7) < 0.1 < abs(ivw(bx, bxse, by, byse).estimate - a.estimate) + 0.1


def test_s_scale_is_a_minimum():
    bx, _, by, byse = mutations(3)
    x, y = np.stack([1 / byse, bx / byse], 1), by / byse
    fit = mm_regression(x, y)
    same(m_scale(y - x @ fit.first, 2), fit.scale, 'scale', 1e-12)
    rng = np.random.default_rng(0)
    for step in (1e-4, 1e-2, 1):
        for _ in range(50):
            assert m_scale(y - x @ (fit.first + step * rng.normal(size=2)), 2) >= fit.scale * (1 - 1e-9)


def test_exact_fit_is_said():
    x = np.linspace(0.1, 1, 10)
    r = ivw(x, [0.1] * 10, 2 * x, [0.1] * 10, robust=True)
    assert r.estimate == pytest.approx(2) and np.isnan(r.se) and 'not_finite' in r.codes


@pytest.mark.parametrize('weighting', ['simple', 'weighted', 'penalized'])
def test_medians_are_rs(weighting):
    seen = 0
    for name, data, r in both_sources():
        want = next(v for k, v in r.items() if k.startswith(f'mr_median(weighting={weighting},'))
        if name == 'edge_bx0_n8' and weighting != 'weighted':
            continue  # R counts a mutation without a ratio as an infinite one
        got = weighted_median(*data, weighting=weighting, n_boot=1000)
        same(got.estimate, want['Estimate'], name)
        if not (name.startswith('sim2') and weighting == 'penalized'):
            assert got.se == pytest.approx(want['StdError'], rel=0.1), name
        seen += 1
    assert seen >= 1


def grid_mode(b, w, phi):
    "R's mode: ratios binned on a grid of 512 points from end to end, smoothed there, and its highest point."
    mad = 1.4826 * np.median(np.abs(b - np.median(b)))
    h = phi * 0.9 * min(b.std(ddof=1), mad) * len(b) ** -0.2
    grid = np.linspace(b.min() - 7 * h, b.max() + 7 * h, 512)
    step = grid[1] - grid[0]
    at = (b - grid[0]) / step
    low, share = at.astype(int), at % 1
    mass = np.bincount(low, w * (1 - share), 513) + np.bincount(low + 1, w * share, 513)
    smooth = np.convolve(mass[:512], np.exp(-((np.arange(-511, 512) * step / h) ** 2) / 2))[511:1023]
    points = np.linspace(b.min() - 3 * h, b.max() + 3 * h, 512)
    return points[np.argmax(np.interp(points, grid, smooth))]


@pytest.mark.parametrize('weighting', ['weighted', 'unweighted'])
@pytest.mark.parametrize('stderror', ['simple', 'delta'])
@pytest.mark.parametrize('phi', [1, 0.5])
def test_modes_are_rs_up_to_rs_grid(weighting, stderror, phi):
    d = REFERENCE['sim4_small_n60']
    bx, bxse, by, byse = data = [np.array(d[c]) for c in COLUMNS]
    want = d['r'][
        f'mr_mbe(weighting={weighting},stderror={stderror},phi={phi},iterations=2000,seed=314159265)'
    ]
    got = mode_based(*data, weighting=weighting, stderror=stderror, phi=phi)
    ratio = by / bx
    step = (np.ptp(ratio) + 6 * got.diagnostics['bandwidth']) / 511
    assert abs(got.estimate - want['Estimate']) < step / 2 * 1.01
    # with R's grid in place of the exact top we get R's numbers; so the rest of the difference is that grid
    se = np.abs(byse / bx) if stderror == 'simple' else np.hypot(byse / bx, by * bxse / bx**2)
    w = se**-2.0 if weighting == 'weighted' else np.ones(60)
    same(grid_mode(ratio, w, phi), want['Estimate'], 'grid')
    rng = np.random.default_rng(0)
    boot = np.array([grid_mode(ratio + se * rng.standard_normal(60), w, phi) for _ in range(1000)])
    assert 1.4826 * np.median(np.abs(boot - np.median(boot))) == pytest.approx(want['StdError'], rel=0.12)
    assert got.se < want['StdError']


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 60), st.floats(0.05, 2))
def test_mode_is_the_global_maximum(seed, n, phi):
    rng = np.random.default_rng(seed)
    x, w = rng.standard_cauchy(n) * 10 ** rng.uniform(-3, 3), rng.uniform(0.01, 1, n)
    # with exposure effects of 1 the ratios are the outcome effects, and their weights 1 / byse^2
    got = mode_based(np.ones(n), np.ones(n), x, w**-0.5, stderror='simple', phi=phi, n_boot=2)
    h = got.diagnostics['bandwidth']

    def height(t):
        return np.sum(w * np.exp(-(((np.atleast_1d(t)[:, None] - x) / h) ** 2) / 2), 1)

    around = (x[:, None] + h * np.linspace(-1, 1, 41)).ravel()
    assert height(got.estimate)[0] >= height(around).max() * (1 - 1e-9)


def test_mode_at_n_3000_is_near_the_truth_where_rs_is_not():
    seen = False
    for name, data, r in both_sources():
        if name.startswith('sim1'):
            got = mode_based(*data, n_boot=2)
            want = r['mr_mbe(weighting=weighted,stderror=delta,phi=1,iterations=200,seed=314159265)'][
                'Estimate'
            ]
            assert abs(got.estimate - 0.6) < 0.4 < abs(want - 0.6)  # the true effect is 0.6
            seen = True
    if not seen:
        pytest.skip('the shared reference numbers are absent')


@pytest.mark.parametrize('over', [True, False])
def test_divw_is_rs(over):
    for name, data, r in both_sources():
        want = r[f'mr_divw(over.dispersion={str(over).upper()})']
        got = divw(*data, over_dispersion=over)
        for value, key in zip(
            (got.estimate, got.se, got.ci_low, got.ci_high, got.p, got.diagnostics['condition']),
            ('Estimate', 'StdError', 'CILower', 'CIUpper', 'Pvalue', 'Condition'),
        ):
            same(value, want[key], f'{name} {key}', 2e-9)
        assert ('divw_unstable' in got.codes) == (want['Condition'] < 20)


def test_divw_with_covariance_is_unbiased_and_covers():
    est, hits = [], 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        true, a, b = 0.01 * rng.normal(size=(3, 500)) * [[1.0], [1.0], [1.0]]
        bx, by = true + a, 0.6 * true + 0.5 * (0.7 * a + 0.51**0.5 * b)
        r = divw(bx, np.full(500, 0.01), by, np.full(500, 0.005), cov=np.full(500, 0.35e-4))
        est.append(r.estimate)
        hits += r.ci_low < 0.6 < r.ci_high
    assert abs(np.mean(est) - 0.6) < 0.02 and 0.9 < hits / 300 < 0.99


def test_gls_is_rs():
    if not (SHARED / 'outputs' / 'mr_correlated.json').exists():
        pytest.skip('the shared reference numbers are absent')
    out = json.loads((SHARED / 'outputs' / 'mr_correlated.json').read_text())
    files = dict(
        sim4=('sim4_small_n60', 'sim4_rhoY_shrunk0.2_60x60'), calcium=('calcium_fastgluc_n6', 'calc_rho_6x6')
    )
    for name, (values, matrix) in files.items():
        d, rho = (pd.read_csv(SHARED / 'inputs' / f'{f}.csv') for f in (values, matrix))
        data = [d[c] for c in COLUMNS] if name == 'sim4' else [d[c] for c in d.columns]
        for model in ('fixed', 'random'):
            for ours, theirs in (('normal', 'normal'), ('t', 't-dist')):
                want = out[name][f'mr_ivw(correl,model={model},distribution={theirs})']
                got = gls(*data, rho=rho.to_numpy(), model=model, distribution=ours)
                d2 = got.diagnostics
                same(
                    [
                        got.estimate,
                        got.se,
                        got.ci_low,
                        got.ci_high,
                        d2['residual_se'],
                        d2['q'],
                        d2['mean_f_correlated'],
                    ],
                    [want[k] for k in ('Estimate', 'StdError', 'CILower', 'CIUpper', 'RSE')]
                    + [want['Heter.Stat'][0], want['Fstat']],
                    name,
                )
                assert got.p == pytest.approx(want['Pvalue'], rel=1e-6, abs=1e-15)
    y = pd.read_csv(SHARED / 'inputs' / 'sim4_drawsY_50x60.csv').to_numpy()
    matrix = pd.read_csv(SHARED / 'inputs' / 'sim4_rhoY_shrunk0.2_60x60.csv').to_numpy()
    np.testing.assert_allclose(shrunk_correlation(y, 0.2), matrix, atol=1e-12)


def test_gls_by_brute_force_with_dropped_rows():
    bx, bxse, by, byse = mutations(1, n=12)
    rho = shrunk_correlation(np.random.default_rng(0).normal(size=(6, 12)), 0.3)
    byse[4], bx[7] = 0, np.nan
    keep = np.delete(np.arange(12), [4, 7])
    inverse = np.linalg.inv(rho[np.ix_(keep, keep)] * np.outer(byse[keep], byse[keep]))
    r = gls(bx, bxse, by, byse, rho=rho)
    same(r.estimate, (bx[keep] @ inverse @ by[keep]) / (bx[keep] @ inverse @ bx[keep]), 'slope')
    same(gls(*mutations(2), rho=np.eye(40)).se, ivw(*mutations(2)).se, 'no correlation')


@pytest.mark.parametrize('rho,message', [
    (None, '^rho: found object values'), (np.ones((2, 2)), r'^rho: found shape \(2, 2\), expected \(3, 3\)'),
    (np.ones((3, 3)), '^rho: found no inverse'), (2 * np.eye(3), '^rho: found no correlation matrix'),
    (np.triu(np.ones((3, 3))), '^rho: found no correlation matrix')])
def test_gls_refuses(rho, message):
    with pytest.raises(InputError, match=message):
        gls(**OK, rho=rho)


def test_mvmr_is_weighted_least_squares():
    sm = pytest.importorskip('statsmodels.api')
    rng = np.random.default_rng(0)
    bx, byse = rng.normal(0, 0.1, (50, 3)), rng.uniform(0.005, 0.02, 50)
    by = bx @ [0.5, 0.0, -0.3] + 2 * byse * rng.normal(size=50)
    out = mvmr(bx, np.full((50, 3), 0.01), by, byse, names=['a', 'b', 'c'])
    fit = sm.WLS(by, bx, weights=byse**-2).fit()
    same([r.estimate for r in out.values()], fit.params, 'WLS')
    same([r.se for r in out.values()], fit.bse, 'WLS SE')  # residual SE above 1 here, as in R's mr_mvivw
    same(
        [ivw(bx[:, 0], np.full(50, 0.01), by, byse).estimate],
        [mvmr(bx[:, :1], np.full((50, 1), 0.01), by, byse)['exposure 1'].estimate],
        'one',
    )


def test_mvmr_says_what_it_cannot_tell_apart():
    bx = np.linspace(0.1, 1, 10)[:, None] * [1.0, 2.0]
    out = mvmr(bx, np.full((10, 2), 0.01), bx[:, 0], np.full(10, 0.01))
    assert all(np.isnan(r.estimate) and 'exposures_not_distinct' in r.codes for r in out.values())
    few = mvmr(np.eye(3), np.ones((3, 3)), [1, 2, 3], [1, 1, 1])
    assert all(np.isnan(r.estimate) and 'too_few_mutations' in r.codes for r in few.values())
    with pytest.raises(InputError, match=r'^names: found 1'):
        mvmr(bx, np.ones((10, 2)), bx[:, 0], np.ones(10), names=['a'])


def test_leave_one_out_is_rs():
    d = REFERENCE['sim4_small_n60']
    want = d['r']['TwoSampleMR::mr_leaveoneout']
    got = leave_one_out(*(d[c] for c in COLUMNS))
    same(got.estimate, want['b'][:60], 'estimates')
    same(got.se, want['se'][:60], 'errors')
    by_position = leave_one_out(*(d[c] for c in COLUMNS), groups=d['pos'])
    assert len(by_position.group) == 20 and by_position.most_influential in d['pos']
    with pytest.raises(InputError, match=r'^groups: found shape'):
        leave_one_out(**OK, groups=[1])
    with pytest.raises(InputError, match=r'^bx: found no estimate'):
        leave_one_out([0.1, 0.2], [0.1] * 2, [0.1, 0.2], [0.1] * 2)


def test_steiger_is_rs():
    for key, want in STEIGER.items():
        args = [float(v.split('=')[1]) for v in key[key.index('(') + 1 : -1].split(',')]
        got = steiger_test(*args[:2], int(args[2]), int(args[3]))
        same(got.p, want['steiger_test'], key, 1e-9)
        assert got.exposure_first == want['correct_causal_direction']
        same([got.r_exposure**2, got.r_outcome**2], [want['r2_exp'], want['r2_out']], key)
    with pytest.raises(InputError, match=r'^r_exposure: found 2'):
        steiger_test(2, 0.1, 10, 10)
    with pytest.raises(InputError, match=r'^n_outcome: found 3'):
        steiger_test(0.2, 0.1, 10, 3)


def test_debiased_draws_cover_where_the_slope_of_the_means_is_flattened():
    hits, est = 0, []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        true, noise = rng.normal(0, 0.01, 300), rng.normal(size=(2, 50, 300))
        x = true + 0.05 * noise[0]
        y = 0.6 * true + 0.03 * (0.7 * noise[0] + 0.51**0.5 * noise[1])
        r = divw_draws(x, y, np.repeat(np.arange(100), 3), n_boot=200)
        hits += r.ci_low < 0.6 < r.ci_high
        est.append(r.estimate)
    assert abs(np.mean(est) - 0.6) < 0.02 and hits / 60 > 0.9


def test_divw_draws_and_divw_agree():
    x, y, pos = draws(8)
    k, bx, by = 50, x.mean(0), y.mean(0)
    cov = ((x - bx) * (y - by)).sum(0) / (k - 1) / k
    se = [v.std(0, ddof=1) / k**0.5 for v in (x, y)]
    same(divw_draws(x, y, pos, n_boot=50).estimate, divw(bx, se[0], by, se[1], cov=cov).estimate, 'estimate')
    with pytest.raises(InputError, match=r'^cov: found .* where bxse'):
        divw(bx, se[0], by, se[1], cov=10 * se[0] * se[1])


def test_slope_per_draw():
    x, _, _ = draws(9)
    y = x * np.linspace(1, 2, 50)[:, None]
    r = slope_per_draw(x, y, weights='outcome')
    np.testing.assert_allclose(r.diagnostics['slopes'], np.linspace(1, 2, 50), rtol=1e-12)
    same([r.estimate, r.se], [1.5, np.linspace(1, 2, 50).std(ddof=1)], 'mean and SD')
    assert r.ci_low < 1 < 2 < r.ci_high
    same(slope_per_draw(x, y, weights='equal').diagnostics['slopes'], draw_slopes(x, y), 'equal weights', 1e-12)


def test_draw_slopes_of_many_windows_at_once():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5, 4, 9))
    w = rng.uniform(1, 2, 9)
    x[2, 1] = 0
    got = draw_slopes(x.astype(np.float32), y, w)
    assert got.shape == (5, 4) and np.isnan(got[2, 1]) and np.isfinite(got).sum() == 19
    for k in range(5):
        for i in range(4):
            a = x[k, i].astype(np.float32).astype(float)
            if (k, i) != (2, 1):
                same(got[k, i], np.average(a * y[k, i], weights=w) / np.average(a**2, weights=w), 'slope', 1e-12)


# ------------------------------------------------------------- one window of a dataset
def dataset(seed=0, n_draws=20, length=12):
    xr = pytest.importorskip('xarray')
    rng = np.random.default_rng(seed)
    ref = rng.integers(4, size=length)
    x = 0.1 * rng.normal(size=(1, 1, length, 4)) + 0.02 * rng.normal(size=(n_draws, 1, length, 4))
    y = 0.5 * x + 0.02 * rng.normal(size=x.shape)
    for v in (x, y):
        v[:, 0, np.arange(length), ref] = np.nan
    over, k = ('window', 'position', 'alt'), n_draws
    mean, se = (lambda v: v.mean(0)), (lambda v: v.std(0, ddof=1) / k**0.5)
    cov = ((x - x.mean(0)) * (y - y.mean(0))).sum(0) / (k - 1) / k
    values = dict(
        bx=(over, mean(x)), bxse=(over, se(x)), by=(over, mean(y)), byse=(over, se(y)), bxby_cov=(over, cov)
    )
    values['ref'] = (over[:2], np.array(list('ACGT'))[ref][None])
    values |= dict(draws_x=(('draw', *over), x), draws_y=(('draw', *over), y))
    return xr.Dataset(values, dict(window=['w'], position=np.arange(100, 100 + length), alt=list('ACGT')))


def test_every_estimator_takes_a_dataset():
    d = dataset()
    s = from_effects(d)
    assert len(s.bx) == 36 and list(s.position[:4]) == [100, 100, 100, 101] and s.draws_x.shape == (20, 36)
    for method in (ivw, egger, weighted_median, mode_based):
        assert method(d) == method(*s[:4]) and method(d).diagnostics['n_dropped'] == 0
    assert divw(d) == divw(*s[:4], cov=s.cov)
    assert raps(d) == raps(*s[:4], cov=s.cov)
    assert divw_draws(d, n_boot=20) == divw_draws(s.draws_x, s.draws_y, s.position, n_boot=20)
    assert mask_bootstrap(d, n_boot=20) == mask_bootstrap(s.draws_x, s.draws_y, s.position, n_boot=20)
    assert slope_per_draw(d) == slope_per_draw(s.draws_x, s.draws_y)
    assert gls(d, rho=np.eye(36)).estimate == pytest.approx(ivw(d).estimate, rel=1e-12)
    assert list(leave_one_out(d).group) == list(range(100, 112)) and steiger(d).exposure_first in (
        True,
        False,
    )
    xr = pytest.importorskip('xarray')
    two = xr.concat([d[['bx', 'bxse']], d[['bx', 'bxse']] * [[1], [2], [1]][0][0]], 'exposure').assign_coords(
        exposure=['A', 'B']
    )
    two['bx'][1] = two['bx'][1] ** 2
    joint = mvmr(xr.merge([two, d[['by', 'byse', 'ref']]]))
    assert list(joint) == ['A', 'B'] and all(np.isfinite(r.estimate) for r in joint.values())


def test_a_dataset_with_draws_brings_the_covariance_of_its_exposures():
    xr = pytest.importorskip('xarray')
    a, b = dataset(0), dataset(1).assign(ref=dataset(0).ref)
    same_noise = b.draws_x.mean('draw') + a.draws_x - a.draws_x.mean('draw')  # the masks move both alike
    other = a.assign(draws_x=same_noise, bx=same_noise.mean('draw'), bxse=a.bxse)
    joint = xr.concat([a[['bx', 'bxse', 'draws_x']], other[['bx', 'bxse', 'draws_x']]], 'exposure').assign_coords(exposure=['A', 'B'])
    joint = joint.merge(a[['by', 'byse', 'ref', 'draws_y']])
    draws = np.stack([from_effects(joint.isel(exposure=e)).draws_x for e in range(2)], 2)
    keep = np.isfinite(draws).all((0, 2))
    want = conditional_f(draws[:, keep].mean(0), cov=exposure_covariance(draws[:, keep]))
    got = [r.diagnostics['conditional_f'] for r in mvmr(joint).values()]
    same(got, want, 'with the draws', 1e-9)
    apart = [r.diagnostics['conditional_f'] for r in mvmr(joint.drop_vars(['draws_x', 'draws_y'])).values()]
    same(apart, conditional_f(draws[:, keep].mean(0), draws[:, keep].std(0, ddof=1) / 20**0.5), 'without', 1e-9)
    assert not np.allclose(got, apart, rtol=0.1)


def test_a_hole_is_dropped_and_a_reference_base_is_not():
    d = dataset()
    at = int(np.flatnonzero(d.ref.values[0] != 'A')[0])
    d['by'][0, at, 0] = np.nan
    assert ivw(d).diagnostics['n_dropped'] == 1 and ivw(d).n == 35
    assert ivw(d.drop_vars('ref')).diagnostics['n_dropped'] == 1


def test_datasets_that_do_not_fit():
    d = dataset()
    for call, message in (
        (lambda: ivw(d.drop_vars('bxse')), '^dataset: found no bxse'),
        (lambda: ivw(d, [1]), '^bx: found a dataset beside bxse'),
        (lambda: mask_bootstrap(d.drop_vars('draws_y')), '^dataset: .*keep_draws'),
        (lambda: mask_bootstrap(d, np.ones((2, 2))), '^draws_x: found a dataset beside draws_y'),
        (lambda: ivw(d.isel(alt=0, drop=True)), '^bx: .*position and alt'),
        (lambda: ivw(pytest.importorskip('xarray').concat([d, d], 'window')), '^bx: found 2 entries of window'),
        (lambda: from_effects([1, 2]), '^dataset: found a list, expected an xarray.Dataset'),
        (lambda: mvmr(d), '^bx: .*with a dimension exposure'),
    ):
        with pytest.raises(InputError, match=message):
            call()


def weak(seed, theta=0.6, n=400, rho=0.7):
    "Weak instruments with shared noise: (bx, bxse, by, byse), covariance."
    rng = np.random.default_rng(seed)
    true, a, b = rng.standard_normal((3, n)) * 0.01
    bx, by = true + a, theta * true + rho * a / 2 + np.sqrt(1 - rho**2) * b / 2
    return (bx, np.full(n, 0.01), by, np.full(n, 0.005)), np.full(n, rho * 5e-5)


@pytest.mark.parametrize('loss', ['l2', 'huber', 'tukey'])
def test_raps_is_unbiased_and_covers_with_weak_instruments(loss):
    fits = [raps(*data, cov=c, loss=loss) for data, c in map(weak, range(40))]
    z = np.array([(f.estimate - 0.6) / f.se for f in fits])
    assert abs(z.mean()) < 3 / np.sqrt(40) and 0.7 < z.std() < 1.4
    assert np.mean([f.ci_low <= 0.6 <= f.ci_high for f in fits]) > 0.8


def test_raps_is_the_minimum_of_the_profile_loss():
    from scipy.optimize import minimize_scalar

    (bx, bxse, by, byse), c = weak(1)

    def profile(theta):
        return np.sum((by - theta * bx) ** 2 / (byse**2 + theta**2 * bxse**2 - 2 * theta * c)) / 2

    best = minimize_scalar(profile, bounds=(-1, 2), method='bounded', options=dict(xatol=1e-12))
    got = raps(bx, bxse, by, byse, c, loss='l2', over_dispersion=False)
    assert got.estimate == pytest.approx(best.x, rel=1e-6)
    assert got.diagnostics['minima'][0][1] == pytest.approx(best.fun, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(0.01, 100), st.sampled_from(['l2', 'huber', 'tukey']))
def test_raps_knows_no_units_and_no_order(seed, a, b, loss):
    (bx, bxse, by, byse), c = weak(seed, n=60)
    got, order = raps(bx, bxse, by, byse, c, loss), np.random.default_rng(seed).permutation(60)
    moved = raps(*(v[order] for v in (bx * a, bxse * a, by * b, byse * b, c * a * b)), loss)
    if 'several_minima' not in got.codes:
        assert moved.estimate * a / b == pytest.approx(got.estimate, rel=1e-4, abs=1e-6)
        assert moved.se * a / b == pytest.approx(got.se, rel=1e-3)


def test_raps_says_what_it_cannot_do():
    data, c = weak(0, n=20)
    with pytest.raises(InputError, match=r'^cov: found .* where bxse'):
        raps(*data, cov=c * 3)
    with pytest.raises(InputError, match=r'^loss: found'):
        raps(*data, loss='median')


def r_raps(bx, bxse, by, byse):
    "The equations of Zhao et al. 2020 for squared loss with over-dispersion, as R's mr.raps has them: slope, tau2, SE."
    from scipy.optimize import brentq

    def v(theta, tau2):
        return tau2 + byse**2 + theta**2 * bxse**2

    def first(theta, tau2):
        r = by - theta * bx
        return np.sum(r * bx / v(theta, tau2) + r**2 * theta * bxse**2 / v(theta, tau2) ** 2)

    def second(tau2, theta):
        return np.sum(bxse**2 * ((by - theta * bx) ** 2 / v(theta, tau2) - 1) / v(theta, tau2))

    theta, tau2 = 0.5, 0.0
    for _ in range(200):
        theta = brentq(first, theta - 0.3, theta + 0.3, args=(tau2,), xtol=1e-15)
        tau2 = brentq(second, 0, 1, args=(theta,), xtol=1e-18) if second(0.0, theta) > 0 else 0.0
    w, own = v(theta, tau2), tau2 + byse**2
    strength = (bx**2 - bxse**2) * own + (by**2 - own) * bxse**2
    score = np.diag([np.sum((strength + bxse**2 * own) / w**2), np.sum(2 * bxse**4 / w**2)])
    slope = -np.array([[np.sum(strength / w**2), np.sum(bxse**2 * theta / w**2)], [0, np.sum(bxse**2 / w**2)]])
    inverse = np.linalg.inv(slope)
    return theta, tau2, np.sqrt((inverse @ score @ inverse.T)[0, 0])


@pytest.mark.parametrize('seed', range(6))
def test_raps_solves_the_papers_equations(seed):
    rng = np.random.default_rng(seed)
    n = 120
    bxse, byse = rng.uniform(0.02, 0.1, n), rng.uniform(0.02, 0.1, n)
    true = rng.normal(0, 0.15, n)
    bx, by = true + bxse * rng.normal(size=n), 0.5 * true + rng.normal(0, 0.06, n) + byse * rng.normal(size=n)
    want, got = r_raps(bx, bxse, by, byse), raps(bx, bxse, by, byse, loss='l2')
    assert want[1] > 0
    same([got.estimate, got.diagnostics['tau2'], got.se], want, 'raps', 1e-8)
    plain = raps(bx, bxse, by, byse, loss='l2', over_dispersion=False)
    v = byse**2 + plain.estimate**2 * bxse**2
    strength = ((bx**2 - bxse**2) * byse**2 + (by**2 - byse**2) * bxse**2) / v**2
    same(plain.se, np.sqrt(np.sum(strength + bxse**2 * byse**2 / v**2)) / np.sum(strength), 'SE', 1e-8)


@pytest.mark.parametrize('loss', ['l2', 'huber', 'tukey'])
def test_raps_with_covariance_is_raps_of_rotated_data(loss):
    "Effects on y - c x have no shared noise if c is cov / bxse^2; the slope is less by c, and nothing else changes."
    bx, _, by, _ = mutations(3, n=200)
    bxse, byse, cov = np.full(200, 0.02), np.full(200, 0.015), np.full(200, 2e-4)
    c = 2e-4 / 0.02**2
    a = raps(bx, bxse, by, byse, cov=cov, loss=loss)
    b = raps(bx, bxse, by - c * bx, np.sqrt(byse**2 - c * cov), loss=loss)
    same([a.estimate - c, a.se, a.diagnostics['tau2']], [b.estimate, b.se, b.diagnostics['tau2']], loss, 1e-6)


@pytest.mark.long
@pytest.mark.parametrize('n, tau, reps', [(10, 0, 300), (10, 0.15, 500), (28, 0, 300), (28, 0.15, 300), (3000, 0.15, 30)])
def test_raps_covers_in_its_own_model(n, tau, reps):
    "The fit knows whether there is over-dispersion, not how much. Ten mutations are few to learn that from: the normal interval fails there."
    rng, hits = np.random.default_rng(n), {'t': 0, 'normal': 0}
    for _ in range(reps):
        g, bxse, byse = rng.normal(0, 1, n), np.full(n, 0.1), rng.uniform(0.05, 0.2, n)
        bx, by = g + bxse * rng.normal(size=n), 0.5 * g + tau * rng.normal(size=n) + byse * rng.normal(size=n)
        for d in hits:
            r = raps(bx, bxse, by, byse, loss='l2', over_dispersion=tau > 0, distribution=d)
            hits[d] += r.ci_low <= 0.5 <= r.ci_high
    spread = 2 * np.sqrt(0.05 * 0.95 / reps)  # of the count
    assert 0.93 - spread <= hits['t'] / reps <= 0.97 + spread
    assert hits['t'] >= hits['normal'] and (tau == 0 or n > 10 or hits['normal'] / reps < 0.93)


def test_raps_of_an_exact_fit_keeps_the_known_errors():
    x = np.linspace(0.1, 1, 12)
    for loss in ('l2', 'huber', 'tukey'):
        r = raps(x, np.full(12, 0.05), 2 * x, np.full(12, 0.05), loss=loss)
        assert r.estimate == pytest.approx(2, rel=1e-6) and 0.01 < r.se < 0.2 and 'underdispersed' in r.codes


@pytest.mark.parametrize('name', ['bx', 'bxse', 'by', 'byse'])
def test_what_is_masked_is_a_hole(name):
    data = dict(zip(COLUMNS, mutations(4)))
    holed = data | {name: np.ma.masked_array(data[name], np.arange(40) == 7)}
    holed[name].data[7] = 1e6  # what lies under a mask
    for method in (ivw, egger, weighted_median, divw, raps, lambda **d: mode_based(**d, n_boot=3)):
        got, want = method(**holed), method(**{k: np.delete(v, 7) for k, v in data.items()})
        assert (got.estimate, got.se, got.n, got.diagnostics['n_dropped']) == (want.estimate, want.se, 39, 1)


def test_masks_of_draws_matrices_and_labels():
    x, y, pos = draws(3)
    holed = np.ma.masked_array(x, np.zeros(x.shape, bool))
    holed.mask[2, 5] = True
    assert mask_bootstrap(holed, y, pos, n_boot=20).n == 299
    assert np.isnan(draw_slopes(holed, y)).sum() == 1
    with pytest.raises(InputError, match=r'^draws: found'):
        slope_matrix(holed[..., None])
    with pytest.raises(InputError, match=r'^positions: found masked'):
        mask_bootstrap(x, y, np.ma.masked_equal(pos, 3))
    bx, bxse, by, byse = mutations(1, n=30)
    two = np.ma.masked_array(np.stack([bx, by], 1), np.zeros((30, 2), bool))
    two.mask[4, 1] = True
    assert all(r.n == 29 for r in mvmr(two, np.stack([bxse, byse], 1), by, byse).values())


def test_conditional_f_takes_the_covariance_of_the_draws():
    rng = np.random.default_rng(2)
    k, m, e = 40, 300, 3
    true = rng.normal(0, 0.1, (m, 1)) * [1, 0.9, 0.8] + rng.normal(0, 0.01, (m, e))
    mask = rng.normal(0, 0.2, (k, m, 1))  # noise that all exposures share
    d = true + mask + rng.normal(0, 0.02, (k, m, e))
    bx, cov = d.mean(0), exposure_covariance(d)
    np.testing.assert_allclose(cov[7], np.cov(d[:, 7].T) / k, rtol=1e-12)
    bxse = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    got, apart = conditional_f(bx, cov=cov), conditional_f(bx, bxse)
    for i in range(e):  # Sanderson, Spiller & Bowden 2021
        other = np.delete(np.arange(e), i)
        delta = np.linalg.lstsq(bx[:, other], bx[:, i], rcond=None)[0]
        v = np.insert(-delta, i, 1.0)
        noise = np.array([v @ c @ v for c in cov])
        same(got[i], np.sum((bx @ v) ** 2 / noise) / (m - e + 1), 'conditional F', 1e-9)
    same(apart, conditional_f(bx, cov=np.eye(e) * bxse[:, None] ** 2), 'independent errors', 1e-12)
    assert (got > 2 * apart).all()  # shared noise cancels in what the others do not predict
    joint = mvmr(bx, bxse, bx @ [1, 0, 0], np.full(m, 0.01), cov=cov)
    same([r.diagnostics['conditional_f'] for r in joint.values()], got, 'mvmr', 1e-9)
    for wrong, message in ((dict(cov=cov[:5]), '^cov: found shape'), (dict(), '^bxse: found neither'), (dict(bxse=bxse[:5]), '^bxse: found shape')):
        with pytest.raises(InputError, match=message):
            conditional_f(bx, **wrong)
    with pytest.raises(InputError, match=r"^names: found 'a' twice"):
        mvmr(bx, bxse, bx[:, 0], np.full(m, 0.01), names=['a', 'b', 'a'])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 5), st.integers(1, 4))
def test_slope_matrix_is_the_bootstrap_of_every_pair(seed, k, n_positions, outputs):
    rng = np.random.default_rng(seed)
    draws = rng.standard_normal((k, 3 * n_positions, outputs)) + rng.standard_normal((3 * n_positions, outputs))
    position = rng.permutation(np.repeat(np.arange(n_positions), 3))
    got = slope_matrix(draws, position, n_boot=20, seed=seed)
    for i in range(outputs):
        for j in range(outputs):
            pair = mask_bootstrap(draws[..., i], draws[..., j], position, n_boot=20, seed=seed, weights='equal')
            assert got.estimate[i, j] == pytest.approx(pair.estimate, rel=1e-8, abs=1e-12)
            assert got.se[i, j] == pytest.approx(pair.se, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize('draws', [np.zeros((3, 4)), np.zeros((1, 4, 2)), np.full((3, 4, 2), np.nan), 'text', [[['a']]]])
def test_slope_matrix_refuses(draws):
    with pytest.raises(InputError, match=r'^draws: found '):
        slope_matrix(draws)


# ------------------------------------------------------------------------ fuzz
NUMBER = st.one_of(
    st.floats(-10, 10),
    st.floats(-1e12, 1e12),
    st.sampled_from([0.0, np.nan, np.inf, -np.inf, 1e-200, 1e200, 1.0]),
)
VECTOR = st.one_of(
    st.lists(NUMBER, max_size=8),
    st.lists(NUMBER, min_size=6, max_size=6),
    st.lists(NUMBER.map(abs), min_size=6, max_size=6),
    st.sampled_from(
        [None, 'text', 3.0, [], [[1.0]], ['a'] * 6, [None] * 6, [True] * 6, [1 + 2j] * 6, [[1], [1, 2]], {}]
    ),
)
SUMMARY = {
    'ivw': ivw,
    'ivw delta': lambda *d: ivw(*d, weights='delta', distribution='t'),
    'robust': lambda *d: ivw(*d, robust=True),
    'egger': egger,
    'robust egger': lambda *d: egger(*d, robust=True, distribution='t'),
    'median': lambda *d: weighted_median(*d, weighting='penalized', n_boot=5),
    'mode': lambda *d: mode_based(*d, n_boot=3),
    'divw': divw,
    'divw cov': lambda *d: divw(*d, cov=np.zeros(6)),
    'gls': lambda *d: gls(*d, rho=np.eye(6)),
    'raps': raps,
    'raps tukey': lambda *d: raps(*d, cov=np.zeros(6), loss='tukey', over_dispersion=False),
}


def explained(r):
    if not np.all(np.isfinite([r.estimate, r.se, r.ci_low, r.ci_high, r.p])):
        assert {
            'too_few_mutations',
            'no_exposure_effect',
            'no_exposure_variation',
            'not_finite',
            'exposures_not_distinct',
        } & set(r.codes), r


@pytest.mark.parametrize('name', list(SUMMARY))
@settings(max_examples=40, deadline=None)
@given(VECTOR, VECTOR, VECTOR, VECTOR)
def test_fuzz_summaries(name, bx, bxse, by, byse):
    with contextlib.suppress(InputError):
        explained(SUMMARY[name](bx, bxse, by, byse))


@pytest.mark.parametrize('name', list(SUMMARY))
@settings(max_examples=40, deadline=None)
@given(
    *[st.lists(NUMBER, min_size=6, max_size=6)] * 2, *[st.lists(NUMBER.map(abs), min_size=6, max_size=6)] * 2
)
def test_fuzz_numbers(name, bx, by, bxse, byse):
    try:
        explained(SUMMARY[name](bx, bxse, by, byse))
    except InputError:
        assert np.all(np.array(bxse) == 0) or np.all(np.array(byse) == 0)


@settings(max_examples=40, deadline=None)
@given(*[st.lists(st.lists(NUMBER, min_size=4, max_size=4), min_size=1, max_size=5)] * 2, VECTOR)
def test_fuzz_draws(x, y, positions):
    for method in (
        lambda: mask_bootstrap(x, y, positions, n_boot=5),
        lambda: divw_draws(x, y, positions, n_boot=5),
        lambda: slope_per_draw(x, y),
    ):
        with contextlib.suppress(InputError):
            explained(method())


@settings(max_examples=40, deadline=None)
@given(*[st.lists(st.lists(NUMBER, min_size=2, max_size=2), min_size=5, max_size=5)] * 2, VECTOR, VECTOR)
def test_fuzz_mvmr(bx, bxse, by, byse):
    try:
        for r in mvmr(bx, bxse, by, byse).values():
            explained(r)
    except InputError:
        pass


OPTION = st.one_of(st.none(), st.text(max_size=3), st.integers(-3, 3), NUMBER, st.just([1]), st.just(True))


@settings(max_examples=25, deadline=None)
@given(OPTION)
def test_fuzz_options(value):
    calls = [
        lambda k=k, f=f: f(**OK, **{k: value})
        for f, names in (
            (ivw, ('model', 'weights', 'distribution', 'level', 'seed')),
            (egger, ('orient', 'level')),
            (weighted_median, ('weighting', 'seed', 'level')),
            (mode_based, ('phi', 'stderror', 'seed')),
            (divw, ('cov',)),
            (gls, ('rho', 'model')),
            (leave_one_out, ('groups',)),
            (steiger, ('n_draws',)),
        )
        for k in names
    ]
    for call in calls:
        with contextlib.suppress(InputError):
            call()


def test_no_estimate_has_no_p():
    x = np.linspace(-1e-240, -2e-240, 9)
    e = ivw(x, np.ones(9), np.linspace(1, 2, 9), np.full(9, 1e150), robust=True)
    assert np.isnan([e.estimate, e.se, e.p]).all() and "not_finite" in e.codes
