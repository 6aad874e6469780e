"deepmr.meta and moderators against metafor's numbers, independent libraries, brute force, and on awkward data."

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from deepmr.core import InputError
from deepmr.meta import MetaEstimate, crossed_effects, fixed_effect, fixed_network, random_effects, two_level
from deepmr.moderators import egger_test, leave_one_window_out, meta_regression, subgroups

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / 'shared' / 'reference'
REFERENCE = json.loads((ROOT / 'tests' / 'data' / 'meta_reference.json').read_text())
METHODS = ('REML', 'DL', 'PM', 'ML', 'EB', 'HE', 'HS', 'SJ')
RTOL = 1e-10


def compare(y, s, key: str, want: dict):
    method, test = key.split('/')
    got = random_effects(y, s, tau2=method, ci='wald' if test == 'z' else 'HKSJ')
    if test == 'confint_QP':
        np.testing.assert_allclose(got.tau2_ci, [want['lb'][0], want['ub'][0]], rtol=RTOL)
        np.testing.assert_allclose(got.i2_ci, np.array([want['lb'][2], want['ub'][2]]) / 100, rtol=RTOL)
        return
    pairs = dict(
        estimate='b',
        se='se',
        ci_low='ci.lb',
        ci_high='ci.ub',
        p='pval',
        tau2='tau2',
        h2='H2',
        q='QE',
        q_p='QEp',
    )
    if got.k > 1:  # metafor repeats the confidence interval for one study; we say that there is none
        pairs |= dict(prediction_low='pi.lb', prediction_high='pi.ub')
    for mine, theirs in pairs.items():
        np.testing.assert_allclose(
            getattr(got, mine), want[theirs], rtol=RTOL, atol=1e-300, err_msg=f'{key} {mine}'
        )
    np.testing.assert_allclose(got.i2, want['I2'] / 100, rtol=RTOL)


@pytest.mark.parametrize('name,key', [(n, k) for n, d in REFERENCE.items() for k in d['metafor']])
def test_metafor(name, key):
    d = REFERENCE[name]
    compare(d['estimate'], d['se'], key, d['metafor'][key])


def test_metafor_on_data_that_stay_outside():
    path = SHARED / 'outputs' / 'meta_tight_metafor.json'
    if not path.exists():
        pytest.skip('the shared reference numbers are absent')
    seen = 0
    for name, results in json.loads(path.read_text()).items():
        data = pd.read_csv(SHARED / 'inputs' / f'meta_{name}.csv')
        for key, want in results.items():
            if key.split('/')[0] in METHODS and 'error' not in want:  # R's ML diverges on ATF3
                compare(data.yi, data.sei, key, want)
                seen += 1
    assert seen > 150


@pytest.mark.parametrize(
    'tf,printed',
    [
        ('ATF3', (5.68208839497977, 0.304125698309481, 0.999938057654735, 2.28114898305271)),
        ('HDAC2', (2.57863978415139, 0.164550822040364, 0.999795665670944, 0.671399454451979)),
    ],
)
def test_dl_gives_the_published_rows(tf, printed):
    path = SHARED / 'authors' / f'{tf}_egger_25seq.csv'
    if not path.exists():
        pytest.skip('the published per-window estimates are absent')
    d = pd.read_csv(path)
    r = random_effects(d.ce, d['std'], tau2='DL', ci='wald')
    np.testing.assert_allclose([r.estimate, r.se, r.i2, r.tau2], printed, rtol=1e-6)
    assert 'tau2_outside_interval' in r.codes
    better = random_effects(d.ce, d['std'])
    assert better.tau2 > 20 * r.tau2 and better.se > 5 * r.se


def test_fixed_effect_is_metagens_common_effect():
    for d in REFERENCE.values():
        r = fixed_effect(d['estimate'], d['se'])
        if 'common' in d:
            np.testing.assert_allclose(
                [r.estimate, r.se, r.ci_low, r.ci_high], list(d['common'].values()), rtol=1e-12
            )
        assert r.tau2 == 0 and np.isnan(r.prediction_low)


@pytest.mark.parametrize('method', ['DL', 'REML', 'PM'])
@pytest.mark.parametrize('name', ['sim_moderate_k25', 'sim_k3'])
def test_pymetaanalysis(name, method):
    other = pytest.importorskip('meta_analyze')
    d = REFERENCE[name]
    for ci, theirs in (('wald', 'normal'), ('HKSJ', 'hartung_knapp')):
        got = random_effects(d['estimate'], d['se'], tau2=method, ci=ci)
        want = other.meta_analysis(
            effect=d['estimate'], standard_error=d['se'], tau2_method=method, ci_method=theirs, atol=1e-14
        )
        np.testing.assert_allclose(
            [got.estimate, got.ci_low, got.ci_high], [want.estimate, want.ci_low, want.ci_high], rtol=1e-6
        )


def test_statsmodels():
    combine = pytest.importorskip('statsmodels.stats.meta_analysis').combine_effects
    d = REFERENCE['sim_moderate_k25']
    want = combine(np.array(d['estimate']), np.array(d['se']) ** 2, method_re='dl')
    got = random_effects(d['estimate'], d['se'], tau2='DL', ci='wald')
    np.testing.assert_allclose(
        [got.tau2, got.estimate, got.se, got.q],
        [want.tau2, want.mean_effect_re, want.sd_eff_w_re, want.q],
        rtol=1e-10,
    )


# awkward but valid data, in any unit
@st.composite
def data(draw, low=2, high=12):
    k = draw(st.integers(low, high))
    y = draw(st.lists(st.floats(-10, 10), min_size=k, max_size=k))
    s = 10.0 ** np.array(draw(st.lists(st.floats(-8, 1), min_size=k, max_size=k)))
    return np.round(np.array(y), 6), s


@settings(max_examples=60, deadline=None)
@given(data(), st.sampled_from(METHODS), st.sampled_from(['HKSJ', 'wald']))
def test_any_data_give_a_sane_answer(ys, method, ci):
    y, s = ys
    r = random_effects(y, s, tau2=method, ci=ci)
    assert r.tau2 >= 0 and 0 <= r.i2 <= 1 and r.h2 >= 1 and r.q >= 0 and 0 <= r.p <= 1
    tiny = 1e-9 * (1 + np.abs(y).max())
    assert y.min() - tiny <= r.estimate <= y.max() + tiny
    assert r.prediction_low - tiny <= r.ci_low <= r.estimate <= r.ci_high <= r.prediction_high + tiny
    assert 0 <= r.tau2_ci[0] <= r.tau2_ci[1]


@settings(max_examples=40, deadline=None)
@given(data(), st.sampled_from(METHODS), st.integers(-60, 60), st.randoms())
def test_unit_order_and_sign_do_not_matter(ys, method, power, rnd):
    y, s = ys
    a = random_effects(y, s, tau2=method)
    order = list(range(len(y)))
    rnd.shuffle(order)
    b = random_effects(-y[order] * 2.0**power, s[order] * 2.0**power, tau2=method)
    np.testing.assert_allclose(
        [-b.estimate, b.se, b.tau2],
        [a.estimate * 2.0**power, a.se * 2.0**power, a.tau2 * 4.0**power],
        rtol=1e-6,
        atol=1e-9 * 2.0**power,
    )


@settings(max_examples=30, deadline=None)
@given(data(), st.sampled_from(['REML', 'ML']))
def test_likelihood_maximum_is_global(ys, method):
    y, s = ys
    r = random_effects(y, s, tau2=method)

    def loglik(t):  # written independently of the module
        w = 1 / (s**2 + t)
        mu = np.average(y, weights=w)
        value = stats.norm.logpdf(y, mu, np.sqrt(s**2 + t)).sum()
        return value - 0.5 * np.log(w.sum()) if method == 'REML' else value

    grid = np.concatenate([[0], np.geomspace(1e-20, 1e4, 400)])
    assert loglik(r.tau2) >= max(loglik(t) for t in grid) - 1e-6 * (1 + abs(loglik(r.tau2)))


@settings(max_examples=30, deadline=None)
@given(data())
def test_paule_mandel_solves_its_equation(ys):
    y, s = ys
    r = random_effects(y, s, tau2='PM')
    w = 1 / (s**2 + r.tau2)  # about the estimate with the greatest weight, or the digits are lost
    d = y - y[np.argmax(w)]
    q = np.sum(w * (d - np.average(d, weights=w)) ** 2)
    if r.tau2 > 0:
        np.testing.assert_allclose(q, len(y) - 1, rtol=1e-6)
    else:
        assert q <= len(y) - 1 + 1e-9


def test_equal_errors_reduce_to_the_sample_mean():
    y = np.array([0.3, 1.9, 0.8, 1.1, 2.2])
    t = stats.ttest_1samp(y, 0)
    interval = t.confidence_interval()
    for method in METHODS:  # with equal SEs the Hartung-Knapp interval does not depend on tau2
        r = random_effects(y, np.full(5, 0.2), tau2=method)
        np.testing.assert_allclose(
            [r.estimate, r.ci_low, r.ci_high, r.p],
            [y.mean(), interval.low, interval.high, t.pvalue],
            rtol=1e-10,
        )
    for method in ('REML', 'DL', 'PM', 'HE'):
        assert random_effects(y, np.full(5, 0.2), tau2=method).tau2 == pytest.approx(
            y.var(ddof=1) - 0.04, rel=1e-10
        )


def test_one_exact_window_beside_vague_ones():
    y, s = [1.0, 4.0, -3.0, 2.0, 0.0], [1e-8, 1, 1, 1, 1]
    for method in METHODS:
        r = random_effects(y, s, tau2=method)
        assert 'se_wildly_unequal' in r.codes and np.isfinite(r.se)
        # plain ML is drawn to 0 by the spike of the one exact window, and says that something is wrong
        assert r.tau2 > 0 or (method == 'ML' and {'several_modes', 'tau2_outside_interval'} <= set(r.codes))
    with pytest.raises(InputError, match='do not fit in a double'):
        random_effects([1, 2], [1e-90, 1])


def test_several_modes_are_seen_and_the_highest_taken():
    y, s = np.array([0, 0.001, -0.001, 0.0005, 3, -2.5]), np.array([0.001] * 4 + [0.8, 0.8])
    r = random_effects(y, s, tau2='REML')
    assert [dict(n.values) for n in r.warnings if n.code == 'several_modes'] == [{'modes': 2}]
    assert 'several_modes' in r.codes and r.tau2 < 1e-3


def test_warnings():
    assert random_effects([0.3], [0.1]).codes == ('single_study',)
    assert 'few_studies' in random_effects([1, 2, 3], [1, 1, 1]).codes
    assert {'hksj_degenerate', 'tau2_ci_empty'} <= set(random_effects([1] * 6, [0.1] * 6).codes)
    narrow = REFERENCE['sim_homog_k25']
    assert 'hksj_narrower_than_wald' in random_effects(narrow['estimate'], narrow['se']).codes
    assert 'hksj_narrower_than_wald' not in random_effects(narrow['estimate'], narrow['se'], ci='wald').codes
    assert 'heterogeneous' in fixed_effect([0, 5], [0.1, 0.1]).codes
    assert random_effects([1, 2, 2.5, 1.5, 3], [0.5] * 5).codes == ()


def test_result_is_frozen_and_plain():
    r = random_effects([1, 2, 3], [1, 1, 1])
    with pytest.raises(AttributeError):
        r.estimate = 0
    assert isinstance(r, MetaEstimate) and all(type(v) in (float, int, str, tuple) for v in vars(r).values())
    json.dumps(dataclasses.asdict(r))


@pytest.mark.parametrize(
    'args,message',
    [
        (([1, 2, 3], [1, 1]), '^se: found 2 values, expected 3'),
        (([1, np.nan], [1, 1]), '^estimate: found nan at index 1'),
        (([1, 2], [1, np.nan]), '^se: found nan at index 1'),
        (([np.inf, 2], [1, 1]), '^estimate: found inf at index 0'),
        (([1, 2], [0, 1]), '^se: found 0 at index 0'),
        (([1, 2], [1, -1]), '^se: found -1 at index 1'),
        (([], []), '^estimate: found an empty array'),
        ((['x', 'y'], [1, 1]), '^estimate: found .* values, expected numbers'),
        (([[1, 2]], [1, 1]), r'^estimate: found shape \(1, 2\)'),
        ((1.0, 1.0), r'^estimate: found shape \(\)'),
        (([[1], [1, 2]], [1, 1]), '^estimate: found no array'),
        ((None, [1]), '^estimate: found object values'),
    ],
)
def test_bad_input(args, message):
    for f in (random_effects, fixed_effect):
        with pytest.raises(InputError, match=message):
            f(*args)


@pytest.mark.parametrize(
    'kw,message',
    [
        (dict(tau2='dl'), "^tau2: found 'dl', expected one of"),
        (dict(ci='t'), "^ci: found 't'"),
        (dict(level=95), '^level: found 95'),
        (dict(level='a'), "^level: found 'a'"),
        (dict(tau2=None), '^tau2: found None'),
    ],
)
def test_bad_options(kw, message):
    with pytest.raises(InputError, match=message):
        random_effects([1, 2], [1, 1], **kw)


# ------------------------------------------------------------ meta-regression, subgroups, leave-one-out, Egger
MORE = {n: d for n, d in REFERENCE.items() if 'more' in d}


def compare_regression(y, s, mod, results: dict):
    seen = 0
    for key, want in results.items():
        if not key.startswith('rma(mods='):
            continue
        tau2, ci = (part.split('=')[1].rstrip(')') for part in key.split(',')[1:])
        got = meta_regression(y, s, mod, tau2=tau2, ci='wald' if ci == 'z' else 'HKSJ')
        # metafor's default search for tau2 stops early (3e-4); FE and DL have no search
        rtol = RTOL if tau2 in ('FE', 'DL') else 2e-3
        for mine, theirs in dict(
            estimate='b',
            se='se',
            p='pval',
            ci_low='ci.lb',
            ci_high='ci.ub',
            tau2='tau2',
            q_moderators='QM',
            q_moderators_p='QMp',
        ).items():
            np.testing.assert_allclose(
                getattr(got, mine), want[theirs], rtol=rtol, atol=1e-12, err_msg=f'{key} {mine}'
            )
        np.testing.assert_allclose([got.q, got.q_p], [want['QE'], want['QEp']], rtol=RTOL)
        np.testing.assert_allclose(
            [100 * got.i2, 100 * got.r2],
            [want['I2'], want['R2'] or 0],
            rtol=rtol,
            atol=0.2 * (rtol > 1e-6),
        )
        seen += 1
    return seen


@pytest.mark.parametrize('name', list(MORE))
def test_meta_regression_is_metafors(name):
    d = MORE[name]
    assert compare_regression(d['estimate'], d['se'], d['mod'], d['more']) >= 7


def test_meta_regression_is_metafors_on_data_that_stay_outside():
    path = SHARED / 'outputs' / 'meta_bcg_logRR_k13.json'
    if not path.exists():
        pytest.skip('the shared reference numbers are absent')
    d = pd.read_csv(SHARED / 'inputs' / 'meta_bcg_logRR_k13.csv')
    r = json.loads(path.read_text())
    assert compare_regression(d.yi, d.sei, d['mod'], r) >= 7
    compare_egger(d.yi, d.sei, r)
    compare_left_out(d.yi, d.sei, r)
    compare_subgroups(d.yi, d.sei, d.grp, r)


def compare_egger(y, s, results):
    for key, want in results.items():
        if key.startswith('regtest(rma(method='):
            tau2 = key[len('regtest(rma(method=') :].split(')')[0]
            rtol = RTOL if tau2 in ('FE', 'DL') else 2e-3
            got = egger_test(y, s, tau2=tau2)
            np.testing.assert_allclose(
                [got.statistic, got.p, got.limit], [want['zval'], want['pval'], want['est']], rtol=rtol
            )
    want, got = results['regtest(rma,model=lm,predictor=sei)'], egger_test(y, s, model='lm')
    np.testing.assert_allclose(
        [got.statistic, got.p, got.limit, got.df],
        [want[k] for k in ('tval', 'pval', 'est', 'dfs')],
        rtol=1e-9,
    )


def compare_left_out(y, s, results):
    for tau2, rtol in (('DL', RTOL), ('REML', 3e-3)):
        want, got = results[f'leave1out(rma(method={tau2}))'], leave_one_window_out(y, s, tau2=tau2, ci='wald')
        for name, scale in (('estimate', 1), ('se', 1), ('tau2', 1), ('i2', 100), ('q', 1)):
            theirs = want[dict(i2='I2', q='Q').get(name, name)]
            np.testing.assert_allclose(
                [scale * getattr(r, name) for r in got],
                theirs,
                rtol=rtol,
                atol=1e-12 if rtol < 1e-6 else 1e-3,
            )


def compare_subgroups(y, s, groups, results):
    want = results['metagen(subgroup=grp,method.tau=DL,tau.common=FALSE)']
    got = subgroups(y, s, groups, tau2='DL', ci='wald')
    for i, level in enumerate(want['levels']):
        r = got.groups[level]
        np.testing.assert_allclose(
            [r.estimate, r.se, r.tau2],
            [want[k][i] for k in ('TE.random.w', 'seTE.random.w', 'tau2.w')],
            rtol=RTOL,
        )
    np.testing.assert_allclose(
        [got.q_between, got.p], [want['Q.b.random'], want['pval.Q.b.random']], rtol=1e-9
    )


@pytest.mark.parametrize('name', list(MORE))
def test_egger_leave_one_out_and_subgroups_are_rs(name):
    d = MORE[name]
    compare_egger(d['estimate'], d['se'], d['more'])
    compare_left_out(d['estimate'], d['se'], d['more'])
    compare_subgroups(d['estimate'], d['se'], d['grp'], d['more'])


def residual_maker(v, x):
    w = np.diag(1 / v)
    return w - w @ x @ np.linalg.solve(x.T @ w @ x, x.T @ w)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 20), st.sampled_from(METHODS), st.booleans())
def test_a_meta_analysis_is_a_meta_regression_on_ones(seed, k, method, moderated):
    "tau2 of both solves the matrix formulas of Viechtbauer 2005, in which the design is all that differs."
    rng = np.random.default_rng(seed)
    y, s, z = rng.normal(1, 0.5, k), rng.uniform(0.05, 0.5, k), rng.normal(size=k)
    x = np.column_stack([np.ones(k), z]) if moderated else np.ones((k, 1))
    t2 = meta_regression(y, s, z, tau2=method).tau2 if moderated else random_effects(y, s, tau2=method).tau2
    p0, flat, df = residual_maker(s**2, x), residual_maker(np.ones(k), x), k - x.shape[1]
    p, start = residual_maker(s**2 + t2, x), y.var()
    moments = {
        'DL': (y @ p0 @ y - df) / np.trace(p0),
        'HE': (y @ flat @ y - np.sum(np.diag(flat) * s**2)) / np.trace(flat),
        'HS': (y @ p0 @ y - k) / np.sum(s**-2),
        'SJ': start * (y @ residual_maker(s**2 + start, x) @ y) / df,
    }
    score = {'REML': y @ p @ p @ y - np.trace(p), 'ML': y @ p @ p @ y - np.sum(1 / (s**2 + t2))}
    if method in moments:
        np.testing.assert_allclose(t2, max(0, moments[method]), rtol=1e-8, atol=1e-14)
    elif method in score:
        assert abs(score[method]) < 1e-7 * np.sum(1 / (s**2 + t2)) if t2 > 0 else score[method] <= 1e-7
    else:
        np.testing.assert_allclose(y @ p @ y, df, rtol=1e-8) if t2 > 0 else np.testing.assert_array_less(y @ p0 @ y, df * (1 + 1e-9))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(['REML', 'ML']))
def test_regression_likelihood_maximum_is_global(seed, method):
    rng = np.random.default_rng(seed)
    k = 12
    y, s, x = (
        rng.normal(size=k),
        10 ** rng.uniform(-3, 0.5, k),
        np.column_stack([np.ones(k), rng.normal(size=k)]),
    )
    r = meta_regression(y, s, x[:, 1], tau2=method)

    def loglik(t):  # written independently of the module
        v = s**2 + t
        beta = np.linalg.solve(x.T @ (x / v[:, None]), x.T @ (y / v))
        value = stats.norm.logpdf(y, x @ beta, np.sqrt(v)).sum()
        return value - 0.5 * np.linalg.slogdet(x.T @ (x / v[:, None]))[1] * (method == 'REML')

    grid = np.concatenate([[0], np.geomspace(1e-12, 1e3, 300)])
    assert loglik(r.tau2) >= max(loglik(t) for t in grid) - 1e-6 * (1 + abs(loglik(r.tau2)))


def test_regression_in_other_units():
    rng = np.random.default_rng(1)
    y, s, x = rng.normal(size=15), rng.uniform(0.1, 0.5, 15), rng.normal(size=(15, 2))
    a, b = meta_regression(y, s, x), meta_regression(1e-30 * y, 1e-30 * s, x * [1e6, 1])
    np.testing.assert_allclose(b.estimate * 1e30 * [1, 1e6, 1], a.estimate, rtol=1e-8)
    np.testing.assert_allclose([b.q_moderators, b.i2, b.r2], [a.q_moderators, a.i2, a.r2], rtol=1e-7)


@pytest.mark.parametrize(
    'X,message',
    [
        ([1, 2], '^X: found shape'),
        ([[1], [1, 2]], '^X: found no array'),
        (['a', 'b', 'c', 'd', 'e'], '^X: found <U1 values'),
        ([1, 2, 3, 4, np.nan], '^X: found numbers that are not finite'),
        ([2] * 5, 'constant'),
        (np.eye(5)[:, :4], 'more than the 5'),
        (np.column_stack([np.arange(5), 2 * np.arange(5)]), 'combination'),
    ],
)
def test_bad_moderators(X, message):
    with pytest.raises(InputError, match=message):
        meta_regression([1, 2, 3, 4, 6], [1, 1, 2, 1, 1], X)


def test_bad_groups_and_names():
    with pytest.raises(InputError, match=r'^groups: found shape'):
        subgroups([1, 2], [1, 1], ['a'])
    with pytest.raises(InputError, match=r'^names: found 2'):
        meta_regression([1, 2, 3, 5], [1] * 4, [1, 2, 3, 5], names=['a', 'b'])
    with pytest.raises(InputError, match='leave one out'):
        leave_one_window_out([1], [1])
    assert subgroups([1, 2], [1, 1], ['a', 'a']).df == 0


NUMBER = st.one_of(st.floats(-10, 10), st.sampled_from([0.0, np.nan, np.inf, 1e-200, 1e200, 1.0, -1.0]))
VECTOR = st.one_of(
    st.lists(NUMBER, max_size=6),
    st.lists(NUMBER, min_size=5, max_size=5),
    st.lists(st.floats(1e-9, 10), min_size=5, max_size=5),
    st.sampled_from([None, 'text', 3.0, [], [[1.0]], ['a'] * 5, [None] * 5, [[1], [1, 2]], {}, [1j] * 5]),
)


@settings(max_examples=120, deadline=None)
@given(VECTOR, VECTOR, VECTOR)
def test_fuzz(y, s, x):
    for call in (
        lambda: random_effects(y, s),
        lambda: fixed_effect(y, s),
        lambda: meta_regression(y, s, x),
        lambda: subgroups(y, s, x),
        lambda: leave_one_window_out(y, s),
        lambda: egger_test(y, s),
        lambda: egger_test(y, s, model='lm'),
    ):
        try:
            r = call()
        except InputError:
            continue
        if isinstance(r, MetaEstimate):
            assert np.isfinite([r.estimate, r.se, r.ci_low, r.ci_high, r.p, r.tau2]).all()
        elif hasattr(r, 'q_moderators'):
            assert np.isfinite(r.estimate).all() and np.isfinite(r.se).all() and r.tau2 >= 0


@settings(max_examples=60, deadline=None)
@given(data(low=1), st.integers(2, 8), st.booleans(), st.integers(0, 10**6))
def test_two_levels_add_what_all_windows_share(ys, n_draws, independent, seed):
    y, s = ys
    draws = y[:, None] + np.random.default_rng(seed).normal(size=(len(y), n_draws))
    r, one = two_level(y, s, draws, independent, shared_draws=True), random_effects(y, s)
    w = 1 / (s**2 + one.tau2)
    shared = np.average(draws, axis=0, weights=w).var(ddof=1) / (n_draws if independent else 1)
    assert (r.estimate, r.tau2, r.k) == (one.estimate, one.tau2, one.k)
    assert r.warnings == one.warnings
    np.testing.assert_allclose([r.se_windows, r.se_network**2], [one.se, shared], rtol=1e-6)
    np.testing.assert_allclose(r.se**2, r.se_windows**2 + r.se_network**2)
    few, many = sorted((max(len(y) - 1, 1), n_draws - 1))
    assert few * (1 - 1e-9) <= r.df <= (few + many) * (1 + 1e-9)
    crit = stats.t.isf(0.025, r.df)
    np.testing.assert_allclose([r.ci_low, r.ci_high], r.estimate + np.array([-1, 1]) * crit * r.se)
    assert r.prediction_low <= r.ci_low <= r.ci_high <= r.prediction_high
    np.testing.assert_allclose(r.p, 2 * stats.t.sf(abs(r.estimate) / r.se, r.df), atol=1e-300)


@pytest.mark.parametrize('independent', [True, False])
def test_two_levels_cover_an_error_that_all_windows_share(independent):
    rng, hits, n = np.random.default_rng(11), np.zeros(2), 300
    for _ in range(n):
        off = rng.normal(0, 0.3)  # one network, off by as much as its masks say
        members = rng.normal(0, 0.3, 8)
        shared = members if independent else off + members - members.mean()
        slopes = 1 + rng.normal(0, 0.3, (20, 1)) + shared
        y, s = slopes.mean(1), np.full(20, 0.05)
        for i, r in enumerate((two_level(y, s, slopes, independent), random_effects(y, s))):
            hits[i] += r.ci_low <= 1 <= r.ci_high
    assert 0.92 <= hits[0] / n <= 0.99 and hits[1] / n < 0.85


@pytest.mark.parametrize('draws, message', [
    (np.ones((3, 4)), 'one row for each of the 2 estimates'),
    (np.ones((2, 1)), 'at least 2 draws'),
    (np.full((2, 3), np.nan), '6 values that are not finite'),
])
def test_two_levels_refuse(draws, message):
    with pytest.raises(InputError, match=message):
        two_level([1, 2], [0.1, 0.1], draws)


def test_defaults_are_those_of_the_default_table():
    y, s = [0.1, 0.5, 0.3, 0.9, 0.2], [0.1, 0.2, 0.1, 0.3, 0.1]
    draws = np.array(y)[:, None] + np.arange(4)
    assert random_effects(y, s) == random_effects(y, s, tau2='PM', ci='HKSJ')
    assert two_level(y, s, draws) == two_level(y, s, draws, tau2='PM')


def test_two_levels_refuse_draws_that_do_not_look_shared():
    rng, refused = np.random.default_rng(5), {False: 0, True: 0}
    for _ in range(100):
        for shared in refused:
            slopes = rng.normal(0, 0.3, (20, 30)) + shared * rng.normal(0, 0.3, 30)
            y, s = slopes.mean(1), np.full(20, 0.05)
            told = two_level(y, s, slopes, shared_draws=True)
            try:
                asked = two_level(y, s, slopes)
            except InputError as error:
                asked, message = told, str(error)
                refused[shared] += 1
            assert asked == told  # the test changes no number
    assert message.startswith('draws: found slopes of one draw that agree no more between windows')
    assert refused[False] >= 88 and refused[True] == 0
    assert two_level([1.0], [0.1], [[1.0, 2, 3]]).codes == ('single_study',)  # one window cannot tell


def test_egger_test_names_what_was_passed():
    for unit in (1, 1e-140):
        with pytest.raises(InputError, match=r'^se: found .* in all 3 windows'):
            egger_test(np.array([1, 2, 3]) * unit, np.full(3, unit))
    d = MORE['sim_moderate_k25']
    a, b = egger_test(d['estimate'], d['se']), meta_regression(d['estimate'], d['se'], d['se'], ci='wald')
    np.testing.assert_allclose([a.slope, a.limit, a.p], [b.estimate[1], b.estimate[0], b.p[1]], rtol=1e-10)


def test_what_is_masked_is_refused():
    y, s = np.array([1.0, 2, 3, 5, 4, 2]), np.full(6, 0.5)
    hole = np.arange(6) == 2
    for f in (random_effects, fixed_effect, egger_test, leave_one_window_out):
        with pytest.raises(InputError, match=r'^estimate: found nan at index 2'):
            f(np.ma.masked_array(y, hole), s)
        with pytest.raises(InputError, match=r'^se: found nan at index 2'):
            f(y, np.ma.masked_array(s, hole))
    with pytest.raises(InputError, match=r'^X: found numbers that are not finite'):
        meta_regression(y, s, np.ma.masked_array(np.arange(6), hole))
    with pytest.raises(InputError, match=r'^groups: found masked'):
        subgroups(y, s, np.ma.masked_array(np.arange(6) % 2, hole))
    table = np.ma.masked_array(np.random.default_rng(0).normal(size=(6, 3)), np.zeros((6, 3), bool))
    table.mask[1, 1] = True
    calls = (lambda: two_level(y, s, table), 'draws'), (lambda: crossed_effects(table), 'slopes'), (lambda: fixed_network(table[:, 1]), 'slopes')
    for call, message in calls:
        with pytest.raises(InputError, match=f'^{message}: found'):
            call()


# ------------------------------------------------------------ one exact window: the digits hold
def test_regression_beside_one_exact_window():
    mpmath = pytest.importorskip('mpmath')
    y, s, z = [1.0, 4.0, -3.0, 2.0, 0.0, 1.5], [1e-8, 1, 1, 1, 1, 0.5], [0.3, -1.0, 2.0, 0.7, 0.1, -0.4]
    got = meta_regression(y, s, z, tau2='DL', ci='wald')
    with mpmath.workdps(60):
        x, w = mpmath.matrix([[1, mpmath.mpf(v)] for v in z]), mpmath.diag([1 / mpmath.mpf(v) ** 2 for v in s])
        p = w - w * x * (x.T * w * x) ** -1 * x.T * w
        column = mpmath.matrix(y)
        q, trace = (column.T * p * column)[0], sum(p[i, i] for i in range(6))
        tau2 = max(mpmath.mpf(0), (q - 4) / trace)
        i2 = tau2 / (tau2 + 4 / trace)
        w = mpmath.diag([1 / (mpmath.mpf(v) ** 2 + tau2) for v in s])
        beta, cov = (x.T * w * x) ** -1 * x.T * w * column, (x.T * w * x) ** -1
    np.testing.assert_allclose([got.q, got.tau2, got.i2, *got.estimate], [float(v) for v in (q, tau2, i2, *beta)], rtol=1e-9)
    np.testing.assert_allclose(got.se, [float(mpmath.sqrt(cov[i, i])) for i in range(2)], rtol=1e-9)


# ------------------------------------------------------------ windows and networks, crossed
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(2, 6))
def test_crossed_effects_are_the_two_way_table(seed, w, k):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(w, 1)) * rng.uniform(0, 2) + rng.normal(size=k) * rng.uniform(0, 2) + rng.normal(size=(w, k)) * rng.uniform(0.1, 1)
    total = (y - y.mean()) ** 2
    rows, columns = k * np.sum((y.mean(1) - y.mean()) ** 2), w * np.sum((y.mean(0) - y.mean()) ** 2)
    ms = rows / (w - 1), columns / (k - 1), (total.sum() - rows - columns) / ((w - 1) * (k - 1))
    r, more = crossed_effects(y), crossed_effects(y, further=True)
    assert r.estimate == pytest.approx(y.mean())
    np.testing.assert_allclose(r.se**2, max(ms[0] + ms[1] - ms[2], ms[0], ms[1]) / (k * w), rtol=1e-8)
    np.testing.assert_allclose([r.sd_windows**2, r.sd_networks**2], np.maximum(0, [(ms[0] - ms[2]) / k, (ms[1] - ms[2]) / w]), atol=1e-12, rtol=1e-6)
    if ms[1] > ms[2] and ms[0] > ms[2]:  # nothing is floored
        np.testing.assert_allclose(more.se**2, r.se**2 + r.sd_networks**2, rtol=1e-8)
        spread = ms[0]**2 / (w - 1) + ms[1]**2 / (k - 1) + ms[2]**2 / (w - 1) / (k - 1)
        np.testing.assert_allclose(r.df, (ms[0] + ms[1] - ms[2]) ** 2 / spread, rtol=1e-8)
    assert more.se >= r.se * (1 - 1e-9) and 0 < r.df <= (w - 1) * k
    crit = stats.t.isf(0.025, r.df)
    np.testing.assert_allclose([r.ci_low, r.ci_high], [r.estimate - crit * r.se, r.estimate + crit * r.se])
    np.testing.assert_allclose(r.p, 2 * stats.t.sf(abs(r.estimate) / r.se, r.df))
    assert r.prediction_low <= r.ci_low <= r.ci_high <= r.prediction_high


def test_one_network_is_the_t_interval_of_a_mean():
    y = np.array([0.3, 1.9, 0.8, 1.1, 2.2])
    r, t = fixed_network(y), stats.ttest_1samp(y, 0)
    np.testing.assert_allclose([r.ci_low, r.ci_high, r.p, r.df], [*t.confidence_interval(), t.pvalue, 4])
    np.testing.assert_allclose(r.prediction_high - r.estimate, stats.t.isf(0.025, 4) * y.std(ddof=1) * np.sqrt(1.2))
    assert r.codes == () and fixed_network(y[:3]).codes == ('few_studies',)
    same = crossed_effects(np.tile(y[:, None], 4))  # networks that agree are one network
    np.testing.assert_allclose([same.se, same.df, same.ci_low], [r.se, r.df, r.ci_low])
    assert same.codes == ('few_networks',)


@pytest.mark.parametrize('sd', [(0.5, 0.1, 0.2), (0.2, 0.3, 0.2), (0.02, 0.02, 0.3), (0.3, 0.0, 0.3)])
def test_crossed_intervals_cover(sd):
    rng, hits, n = np.random.default_rng(7), np.zeros(3), 600
    for _ in range(n):
        y = 1 + rng.normal(0, sd[0], (25, 1)) + rng.normal(0, sd[1], 5) + rng.normal(0, sd[2], (25, 5))
        one, truth = rng.normal(0, sd[1]), rng.normal(0, sd[0], 25)
        whole, more, own = crossed_effects(y), crossed_effects(y, further=True), fixed_network(1 + one + truth)
        hits += [whole.ci_low <= 1 <= whole.ci_high, more.ci_low <= 1 + one <= more.ci_high, own.ci_low <= 1 + one <= own.ci_high]
    assert (hits / n > 0.92).all() and hits[2] / n < 0.98


@pytest.mark.parametrize('call, message', [
    (lambda: crossed_effects([1, 2, 3]), r'^slopes: found shape \(3,\)'),
    (lambda: crossed_effects([[1, 2]]), r'^slopes: found shape \(1, 2\)'),
    (lambda: crossed_effects([[1], [2]]), r'^slopes: found shape \(2, 1\)'),
    (lambda: crossed_effects([['a', 'b'], ['c', 'd']]), '^slopes: found <U1 values'),
    (lambda: crossed_effects([[1, np.nan], [2, 3]]), '^slopes: found nan'),
    (lambda: crossed_effects([[1, 2], [2, 3]], level=2), '^level: found 2'),
    (lambda: fixed_network([1.0]), '^slopes: found 1 window'),
    (lambda: fixed_network([1.0, np.inf]), '^slopes: found inf at index 1'),
])
def test_crossed_effects_refuse(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize('factor', ['ATF3', 'EZH2', 'HDAC2'])
def test_published_local_estimates_give_back_the_published_rows(factor):
    local = pd.read_csv(ROOT / 'nbs' / 'data' / 'published_local_estimates.csv', comment='#').query('tf == @factor')
    row = pd.read_csv(ROOT / 'nbs' / 'data' / 'published_table1.csv', index_col='tf').loc[factor]
    y, s = local.estimate.to_numpy(), local.se.to_numpy()
    assert list(local.sequence) == list(range(1, 26))
    got = random_effects(y, s, tau2='DL', ci='wald')
    np.testing.assert_allclose([got.estimate, got.se, got.i2, got.tau2], row[['mean', 'se', 'i2', 'tau2']], rtol=1e-7)
    assert random_effects(y, s, tau2='REML', ci='HKSJ').se > 5 * got.se


def test_published_local_estimates_are_those_of_the_authors():
    folder = SHARED / 'authors'
    if not folder.is_dir():
        pytest.skip('the shared reference numbers are absent')
    local = pd.read_csv(ROOT / 'nbs' / 'data' / 'published_local_estimates.csv', comment='#')
    for factor, here in local.groupby('tf'):
        theirs = pd.read_csv(folder / f'{factor}_egger_25seq.csv')
        np.testing.assert_array_equal(here[['estimate', 'se']], theirs[['ce', 'std']])
