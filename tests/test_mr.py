"deepmr.mr against R's numbers, brute force, and on awkward data."

import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from deepmr.mr import _counts, _line, _replicates, at_roundoff, egger, i2_gx, ivw, mask_bootstrap
from deepmr.regions import InputError

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / 'shared' / 'reference'
REFERENCE = json.loads((ROOT / 'tests' / 'data' / 'mr_reference.json').read_text())
RTOL = 1e-9
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
    r = mask_bootstrap(x, y, d['pos'])
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
    bx, _, by, byse = mutations(5)
    fit = sm.WLS(by, sm.add_constant(bx), weights=byse**-2).fit()
    mine = _line(bx, by, byse**-2)
    same([mine['intercept'], mine['slope'], mine['q']], [*fit.params, fit.ssr], 'WLS')
    same([mine['intercept_se'], mine['slope_se']], fit.bse / np.sqrt(fit.scale), 'WLS SE')


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


def test_bootstrap_equals_resampling():
    x, y, pos = draws(0, k=6, m=12)
    w, n = np.random.default_rng(1).uniform(1, 2, 12), 25
    shuffled = np.random.default_rng(2).permutation(12)  # columns need not come sorted by position
    for two_way in (True, False):
        fast = _replicates(x[:, shuffled], y[:, shuffled], w[shuffled], pos[shuffled], n, 5, two_way)
        rng = np.random.default_rng(5)
        a, c = _counts(rng, n, 6), _counts(rng, n, 4) if two_way else np.ones((n, 4), int)
        for i in range(n):
            rows = np.repeat(np.arange(6), a[i])
            cols = np.concatenate([np.tile(np.flatnonzero(pos == p), c[i, p]) for p in range(4)])
            bx, by = x[rows].mean(0)[cols], y[rows].mean(0)[cols]
            same(fast[i], np.sum(w[cols] * bx * by) / np.sum(w[cols] * bx**2), 'replicate')


def test_counts_are_multinomial():
    c = _counts(np.random.default_rng(0), 4000, 7)
    assert (c.sum(1) == 7).all()
    np.testing.assert_allclose(c.mean(0), 1, atol=0.06)
    np.testing.assert_allclose(c.var(0), 1 - 1 / 7, atol=0.08)


def test_bootstrap_is_reproducible_and_independent_of_chunks():
    x, y, pos = draws(1)
    assert mask_bootstrap(x, y, pos, n_boot=100, seed=4) == mask_bootstrap(x, y, pos, n_boot=100, seed=4)
    assert (
        mask_bootstrap(x, y, pos, n_boot=100, seed=4).se != mask_bootstrap(x, y, pos, n_boot=100, seed=5).se
    )
    w = np.ones(300)
    same(
        _replicates(x, y, w, pos, 50, 0, True, chunk_values=700),
        _replicates(x, y, w, pos, 50, 0, True),
        'chunks',
        1e-12,
    )


def test_estimate_is_ivw_and_equal_weights_is_least_squares():
    x, y, pos = draws(2)
    se = [v.std(0, ddof=1) / 50**0.5 for v in (x, y)]
    same(
        mask_bootstrap(x, y, pos, n_boot=20).estimate, ivw(x.mean(0), se[0], y.mean(0), se[1]).estimate, 'IVW'
    )
    r = mask_bootstrap(x, y, pos, n_boot=20, weights='equal')
    same(r.estimate, x.mean(0) @ y.mean(0) / (x.mean(0) @ x.mean(0)), 'OLS')
    same(r.diagnostics['estimate_equal_weights'], r.estimate, 'OLS')


@pytest.mark.parametrize('interval', ['shifted', 'normal'])
def test_bootstrap_covers_with_shared_masks(interval):
    "Noise shared by all mutations of a draw: the closed form covers far too rarely, the bootstrap does not."
    hits, closed, n = 0, 0, 120
    for seed in range(n):
        x, y, pos = draws(seed, noise=0.05)
        r = mask_bootstrap(x, y, pos, n_boot=200, two_way=False, interval=interval)
        se = [v.std(0, ddof=1) / 50**0.5 for v in (x, y)]
        c = ivw(x.mean(0), se[0], y.mean(0), se[1])
        hits += r.ci_low < 0.6 < r.ci_high
        closed += c.ci_low < 0.6 < c.ci_high
    assert hits / n > 0.88 and closed < hits


def test_positions_widen_the_interval_when_they_matter():
    x, y, pos = draws(3)
    y = y + 0.1 * np.random.default_rng(0).normal(size=100)[pos] * np.sign(x.mean(0))
    assert mask_bootstrap(x, y, pos).se > 2 * mask_bootstrap(x, y, pos, two_way=False).se
    assert mask_bootstrap(x, y, pos // 10).diagnostics['n_clusters'] == 10


def test_percentile_interval_is_of_the_replicates():
    x, y, pos = draws(4)
    r = mask_bootstrap(x, y, pos, n_boot=200, interval='percentile', level=0.8)
    se = y.std(0, ddof=1)
    reps = _replicates(x, y, se**-2, pos, 200, 0, True)
    same([r.ci_low, r.ci_high], np.quantile(reps, [0.1, 0.9]), 'quantiles', 1e-6)


def test_a_whole_window_is_fast_and_small():
    x, y, pos = draws(5, m=3000)
    mask_bootstrap(x, y, pos, n_boot=20)
    started = time.perf_counter()
    mask_bootstrap(x.astype(np.float32), y.astype(np.float32), pos)
    assert time.perf_counter() - started < 4  # 0.2 s alone on one core
    tracemalloc.start()
    mask_bootstrap(x, y, pos)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()


def test_bootstrap_drops_still_and_broken_mutations():
    x, y, pos = draws(6)
    x[:, 0], y[:, 1], x[3, 2], y[4, 3] = 0.1, 0.0, np.nan, np.inf
    r = mask_bootstrap(x, y, pos)
    assert (r.n, r.diagnostics['n_dropped']) == (296, 4) and 'dropped_unusable' in r.codes
    same(r.estimate, mask_bootstrap(x[:, 4:], y[:, 4:], pos[4:]).estimate, 'kept')


def test_bootstrap_warnings():
    x, y, pos = draws(7)
    assert (
        'no_positions' in mask_bootstrap(x, y).codes
        and 'no_positions' not in mask_bootstrap(x, y, two_way=False).codes
    )
    assert 'few_draws' in mask_bootstrap(x[:5], y[:5], pos).codes
    assert mask_bootstrap(x, y, pos).codes == ()
    rng = np.random.default_rng(0)
    noise = 0.01 * rng.normal(size=(50, 300)), rng.normal(size=(50, 300))
    true = 0.002 * rng.normal(size=300)
    r = mask_bootstrap(true + noise[0], 0.6 * true + 1e-3 * noise[1], pos)
    assert {'noise_bias', 'weak_instruments'} <= set(r.codes)
    assert r.estimate < r.diagnostics['bias_corrected'] < 0.7 and r.ci_high > 0.5
    few = mask_bootstrap(x[:, :2], y[:, :2], pos[:2])
    assert np.isnan(few.estimate) and 'too_few_mutations' in few.codes
    off = 0.01 * rng.normal(size=300) + 1e-8 * rng.normal(size=(50, 300))
    assert 'se_at_roundoff' in mask_bootstrap(off, 0.6 * off + 1e-8 * rng.normal(size=(50, 300)), pos).codes


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
        json.dumps(vars(r))


OK = dict(bx=[0.1, 0.2, 0.3], bxse=[0.01] * 3, by=[0.1, 0.2, 0.2], byse=[0.01] * 3)


@pytest.mark.parametrize(
    'change,message',
    [
        (dict(by=[1, 2]), 'by has 2 values and bx has 3'),
        (dict(bxse=[0.1, -0.1, 0.1]), 'bxse holds -0.1 at index 1'),
        (dict(byse=[0, 0, 0]), 'byse is zero everywhere.*dropout'),
        (dict(bx=['a', 'b', 'c']), 'bx holds .* values: expected numbers'),
        (dict(bx=[]), 'bx is empty'),
        (dict(bx=[[0.1, 0.2, 0.3]]), r'bx has shape \(1, 3\)'),
        (dict(by=[None, 1, 2]), 'by holds object values'),
        (dict(bx=[[1], [1, 2]]), 'bx is not an array'),
        (dict(distribution='z'), "distribution is 'z': expected one of normal, t"),
        (dict(level=0), 'level is 0'),
    ],
)
def test_bad_input(change, message):
    for method in (ivw, egger):
        with pytest.raises(InputError, match=message):
            method(**OK | change)


def test_bad_options():
    for kw, message in ((dict(model='mixed'), 'model is'), (dict(weights='x'), 'weights is')):
        with pytest.raises(InputError, match=message):
            ivw(**OK, **kw)
    with pytest.raises(InputError, match='orient is'):
        egger(**OK, orient='up')


@pytest.mark.parametrize(
    'args,kw,message',
    [
        ((np.ones((5, 4)), np.random.rand(5, 4)), {}, 'draws_x is the same in all 5 draws.*dropout'),
        (
            (np.random.rand(5, 4), np.random.rand(4, 4)),
            {},
            r'draws_y has shape \(4, 4\) and draws_x has \(5, 4\)',
        ),
        ((np.random.rand(5), np.random.rand(5)), {}, r'draws_x has shape \(5,\)'),
        ((np.random.rand(1, 5), np.random.rand(1, 5)), {}, r'draws_x has shape \(1, 5\)'),
        ((np.random.rand(5, 0), np.random.rand(5, 0)), {}, r'draws_x has shape \(5, 0\)'),
        ((np.array([['a', 'b']] * 3), np.random.rand(3, 2)), {}, 'draws_x holds'),
        (
            (np.random.rand(5, 4), np.random.rand(5, 4)),
            dict(positions=[1, 2]),
            r'positions has shape \(2,\): expected \(4,\)',
        ),
        ((np.random.rand(5, 4), np.random.rand(5, 4)), dict(n_boot=1), 'n_boot is 1'),
        ((np.random.rand(5, 4), np.random.rand(5, 4)), dict(interval='bca'), "interval is 'bca'"),
    ],
)
def test_bad_draws(args, kw, message):
    with pytest.raises(InputError, match=message):
        mask_bootstrap(*args, **kw)
