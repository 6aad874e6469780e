"""What `tools/store_experiments.py` does with measured effects, on small files, and what it stored."""
import gzip
import importlib.util
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from conftest import ROOT
from deepmr.mutagenesis import saturate
from deepmr.regions import Genome, one_hot

SPEC = importlib.util.spec_from_file_location("store_experiments", ROOT / "tools" / "store_experiments.py")
assert SPEC and SPEC.loader
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)
STORED = ROOT / "results" / "experiments"
BASES = "ACGTTGCAACGGTACCATGA"


@pytest.fixture
def assay(tmp_path):
    "An assay of 20 bp at chr1:1001-1020, and its table as `measured` reads it."
    rng = np.random.default_rng(0)
    rows = [("1", 1001 + i, ref, alt, int(rng.integers(5, 200)), 1, 1, rng.normal(), 0.0, "E")
            for i, ref in enumerate(BASES) for alt in "ACGT-" if alt != ref]
    frame = pd.DataFrame(rows, columns=["Chrom", "Pos", "Ref", "Alt", "Barcodes", "DNA", "RNA", "Coefficient", "pValue", "Element"])
    frame["pValue"] = 2 * stats.norm.sf(frame.Coefficient.abs() / (0.8 / np.sqrt(frame.Barcodes)))
    frame.loc[3, "Alt"] = None
    path = tmp_path / "assay.tsv.gz"
    path.write_bytes(gzip.compress(frame.to_csv(sep="\t", index=False).encode()))
    return path, frame, tool.measured(path, "E")


def test_measured_effects_are_substitutions_with_enough_barcodes_and_their_errors(assay):
    _, frame, table = assay
    kept = frame[(frame.Barcodes >= 10) & (frame.Alt != "-") & frame.Alt.notna()]
    assert len(table) == len(kept) and table.attrs == {"chrom": "chr1", "start": 1000, "sequence": BASES}
    assert (table.ref == [BASES[p - 1000] for p in table.position]).all()
    np.testing.assert_allclose(table.byse, 0.8 / np.sqrt(table.Barcodes), rtol=1e-6)


@pytest.mark.parametrize("there", [True, False])
def test_a_view_finds_each_measured_mutation_on_either_strand(assay, tmp_path, there):
    _, _, table = assay
    before, after = ("".join(np.random.default_rng(k).choice(list("ACGT"), 1000)) for k in (1, 2))
    (tmp_path / "g.fa").write_text(f">chr1\n{before}{BASES if there else BASES[::-1]}{after}\n" if there else ">chr2\nACGT\n")
    seen, around = tool.views(table, Genome(tmp_path / "g.fa"), 400)
    assert around == ("genome" if there else "random") and len(seen) == 8
    complement = str.maketrans("ACGT", "TGCA")
    for view in seen:
        window = "".join("ACGT"[c] for c in view.x.argmax(0))
        plus = window.translate(complement)[::-1] if view.flipped else window
        assert plus[1000 - view.begin:1020 - view.begin] == BASES
        assert not there or plus == (before + BASES + after)[view.begin:view.begin + 400]
        mutants = saturate(view.x)[view.rows(table)]
        for i, row in enumerate(table.itertuples()):
            mutant = list(window)
            mutant[mutants.position[i]] = "ACGT"[mutants.alt[i]]
            wanted = list(plus)
            wanted[row.position - view.begin] = row.alt
            assert ("".join(mutant).translate(complement)[::-1] if view.flipped else "".join(mutant)) == "".join(wanted)


def test_another_reference_than_the_assay_s_is_no_surrounding(assay, tmp_path):
    (tmp_path / "g.fa").write_text(">chr1\n" + "A" * 3000 + "\n")
    with pytest.raises(ValueError, match="the assay's reference differs"):
        tool.views(assay[2], Genome(tmp_path / "g.fa"), 400)


def test_agreement_is_pearson_and_spearman_with_an_interval_around(assay):
    table = assay[2]
    x = table.by.to_numpy() + np.random.default_rng(3).normal(size=len(table)).round(1)
    found = tool.agreement(x, table)
    np.testing.assert_allclose([found["pearson"], found["spearman"]],
                               [stats.pearsonr(x, table.by).statistic, stats.spearmanr(x, table.by).statistic])
    for name in ("pearson", "spearman"):
        assert -1 <= found[f"{name}_low"] <= found[name] <= found[f"{name}_high"] <= 1
    counts = np.random.default_rng(4).integers(0, 4, (1, len(x)))  # ranks of a weighted sample are those of the sample written out
    copies = np.repeat(np.arange(len(x)), counts[0])
    want = stats.spearmanr(x[copies], table.by.to_numpy()[copies]).statistic
    np.testing.assert_allclose(tool.correlation(tool.ranks(x, counts), tool.ranks(table.by.to_numpy(), counts), counts)[0], want)


def test_a_slope_is_recovered_and_knocking_down_shrinks_it(assay):
    table = assay[2]
    rng = np.random.default_rng(5)
    true, other = rng.normal(size=(2, len(table)))
    draws = np.stack([true, other], 1) + 0.01 * rng.normal(size=(6, len(table), 2))
    table = table.assign(by=0.5 * true, byse=0.05)
    rows = pd.DataFrame(tool.fits(["HepG2_TF_None", "HepG2_DNase_None"], draws, table, {"HepG2_TF_None"}, "HepG2_DNase_None"))
    own = rows[rows.exposure == "HepG2_TF_None"].set_index("method")
    assert set(own.index) == {"ivw", "egger", "divw", "weighted median", "ivw beside DNase"} and own.pearson.min() > 0.99
    np.testing.assert_allclose(own.estimate, 0.5, atol=0.02)
    known = {"TERT-GAa": (table.assign(by=0.2 * true, row=range(len(table))), np.stack([true, other], 1)), "TERT-GSc": (table, None)}
    ratio = tool.knock_down(known, ["a", "b"], {"a"})
    np.testing.assert_allclose(ratio.ratio, 0.4)


def test_the_results_that_are_stored_belong_together():
    record = json.loads((STORED / "record.json").read_text())
    agree, slopes = (pd.read_csv(STORED / f"{name}.csv") for name in ("correlations", "slopes"))
    assert set(agree.element) == set(tool.ELEMENTS) and set(agree.model) == {record["model"], "MPRA-DragoNN"}
    assert ((agree.pearson_low <= agree.pearson) & (agree.pearson <= agree.pearson_high)).all() and (agree.pearson <= agree.ceiling + 1e-9).all()
    assert {"F9", "SORT1", "PKLR-48h", "TERT-GBM"} <= set(slopes.element)
    assert (slopes.groupby(["element", "method"]).exposure.nunique().loc[:, "ivw"] > 10).all()
    assert not {"by", "byse", "Coefficient"} & {*agree, *slopes}  # results, not the assay's data


def test_the_published_network_follows_what_it_was_trained_for(hg19):
    shared = hg19.parent
    if not (shared / "mpra").is_dir():
        pytest.skip("the measured effects are not on this machine")
    table = tool.measured(shared / "mpra" / "saturation_mutagenesis_grch37.tsv.gz", "F9")
    model = tool.dragonn(shared / "models" / "mpra_dragonn")
    found = tool.slid([tool.make_engine(model, range(12))], table, model.length, [8, 11], stride=40)
    assert stats.pearsonr(found, table.by).statistic > 0.55
    whole = one_hot(table.attrs["sequence"][:145])
    assert model.predict(whole).shape == (1, 12)
