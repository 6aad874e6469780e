"""The page of a run: complete, escaped, self-contained, the same bytes again, and it works in a browser."""
import ast
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import toy_model
from deepmr.cli import app
from deepmr.core import Execution, InputError
from deepmr.experiment import Experiment
from deepmr.networks import SequenceModel
from deepmr.notes import NOTES, UNKNOWN
from deepmr.pipeline import run
from deepmr.report import explain, report
from deepmr.tables import direct_effects, read_local, table1

ROOT = Path(__file__).resolve().parents[1]
EVIL = "X_<script>alert(1)</script>$_None"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    "A run of a model whose first label is an attack, and its page."
    files = tmp_path_factory.mktemp("report")
    bases = "".join(np.random.default_rng(0).choice(list("ACGT"), 3000))
    (files / "g.fa").write_text(f">chr1\n{bases}\n")
    (files / "sites.bed").write_text("".join(f"chr1\t{s}\t{s + 50}\n" for s in range(200, 2600, 300)))
    toy = toy_model()
    model = SequenceModel(toy.module, [EVIL, *toy.labels[1:]], toy.length, "toy")
    experiment = Experiment(model=model, outcome="X_DNase_None", regions=str(files / "sites.bed"), genome=str(files / "g.fa"),
                            windows=3, draws=6, seed=1)
    run(experiment, files / "run", Execution(announce=lambda line: None), command="deepmr table1 --genome '<g>.fa'")
    return files / "run", report(files / "run").read_text(encoding="utf-8")


@pytest.fixture
def made(once, tmp_path):
    "A copy of that run, and its page."
    return shutil.copytree(once[0], tmp_path / "run"), once[1]


class Page(HTMLParser):
    "What the page is made of."

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [a for t, a in self.tags if t == tag]


def test_every_exposure_has_a_row_a_section_and_its_windows(made):
    out, text = made
    page, table, local = Page(text), table1(out), read_local(out)
    links = [a["href"] for a in page.all("a")]
    sections = [a["id"] for a in page.all("details")]
    assert sections == ["x0", "x1"] and [f"#{s}" for s in sections] == [h for h in links if h.startswith("#x")]
    for exposure in table.exposure:
        assert html.escape(exposure, quote=False) in text
    for window in local.drop_duplicates("window").itertuples():
        assert f"{window.chrom}:{window.start:,}–{window.end:,}" in text
    values = {a["data-v"] for a in page.all("td")}
    assert {repr(float(v)) for v in table["mean"]} | {repr(float(v)) for v in local[local.method == "bootstrap"].se} <= values
    assert text.count("image/png;base64") == 2 and text.count("image/svg+xml;base64") == 4


def test_a_default_run_of_one_exposure_has_a_page(tmp_path):
    "There is no other exposure beside which it could be held."
    toy, quiet = toy_model(), Execution(announce=lambda line: None)
    (tmp_path / "g.fa").write_text(">chr1\n" + "".join(np.random.default_rng(0).choice(list("ACGT"), 3000)) + "\n")
    (tmp_path / "sites.bed").write_text("chr1\t200\t250\nchr1\t800\t850\n")
    run(Experiment(model=toy, exposures=(toy.labels[0],), outcome=toy.labels[2], regions=str(tmp_path / "sites.bed"),
                   genome=str(tmp_path / "g.fa"), windows=2), tmp_path / "run", quiet)
    assert Page(report(tmp_path / "run").read_text(encoding="utf-8")).text and direct_effects(tmp_path / "run").empty


def test_labels_and_command_are_escaped(made):
    _, text = made
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "deepmr table1 --genome &#39;&lt;g&gt;.fa&#39;" in text
    assert len(Page(text).all("script")) == 1


def test_nothing_comes_from_outside(made):
    _, text = made
    page = Page(text)
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    without_figures = re.sub(r"data:image/[^\"]+", "", text)
    assert not page.all("link") and not page.all("iframe") and not re.search(r"https?://|//\w+\.\w|@import|url\(|/tmp/", without_figures)
    assert "default-src 'none'" in page.all("meta")[1]["content"]


def test_readers_of_all_kinds_can_use_it(made):
    page = Page(made[1])
    assert page.all("html")[0]["lang"] == "en" and page.all("img") and all(a["alt"] for a in page.all("img"))
    assert any(a.get("name") == "viewport" for a in page.all("meta"))
    assert len(page.all("caption")) == len(page.all("table")) and len(page.all("figcaption")) == len(page.all("img"))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids)) and {a["href"][1:] for a in page.all("a")} <= set(ids)


def test_same_run_same_bytes_and_nothing_else_is_touched(made):
    out, _ = made
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    report(out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_settings_versions_hashes_and_warnings_are_told(made):
    out, text = made
    record, words = json.loads((out / "run.json").read_text()), " ".join(Page(text).text)
    assert all(record[k] in words for k in ("model_sha256", "windows_sha256", "source", "started", "command"))
    assert all(v in words for v in record["versions"].values())
    assert "few_draws" in words and NOTES["few_draws"].sentence in words and "3 of 3 windows" in words
    assert "excludes zero" in words and "not finished" not in words


def test_unfinished_and_evolved_runs_are_called_so(made):
    out, _ = made
    victim = next((out / "local").glob("*.json"))
    victim.unlink()
    (out / "SHA256SUMS").unlink()  # such a directory is read as it is
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"source": "EVOLVED windows, made by the model"}))
    words = " ".join(Page(report(out).read_text()).text)
    n = len((out / "windows.bed").read_text().splitlines())
    assert f"not finished: {n - 1} of {n} windows are done" in words and "EVOLVED windows" in words


def test_records_of_older_versions_and_lost_effects_are_no_obstacle(made):
    out, _ = made
    record = json.loads((out / "run.json").read_text())
    for key in ("doubts", "notes", "versions", "started", "command"):
        record.pop(key, None)
    (out / "run.json").write_text(json.dumps(record))
    for file in (out / "SHA256SUMS", *(out / "effects").iterdir()):
        file.unlink()
    text = report(out).read_text()
    assert "image/png;base64" not in text and "heat map of all pairs is missing: run: found no effects" in text
    assert "started from Python, without a command" in text


def test_what_is_no_run_is_one_sentence_and_exit_code_2(tmp_path):
    with pytest.raises(InputError, match=r"found no run.json"):
        report(tmp_path)
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 2 and "expected a run directory of deepmr" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "report.html").exists()


def test_command_says_where_the_page_is(made):
    out, text = made
    (out / "report.html").unlink()
    done = CliRunner().invoke(app, ["report", str(out)])
    assert done.exit_code == 0 and f"report: {out / 'report.html'}" in done.stdout
    assert (out / "report.html").read_text() == text


def test_every_note_of_the_package_has_one_sentence():
    raised = {"inactive_dropout", "windows_without_estimate", "weak_label", "own_motif_not_found"}  # named where they are stored
    for path in (ROOT / "deepmr").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "note" and isinstance(node.args[0], ast.Constant):
                raised.add(node.args[0].value)
    assert len(raised) > 25 and raised == set(NOTES)
    assert all(kind.sentence[-1] in ".?" and kind.sentence[0].isupper() for kind in NOTES.values())
    for path in (ROOT / "deepmr").glob("*.py"):  # and no module has a second text for it
        text = path.read_text(encoding="utf-8")
        assert path.stem == "notes" or not [code for code, kind in NOTES.items() if kind.sentence in text], path.name


def test_page_and_command_line_say_the_sentences_of_the_registry(made):
    out, text = made
    words, codes = " ".join(" ".join(Page(text).text).split()), {c for t in table1(out).warnings for c in re.findall(r"(\w+)(?: \(|;|$)", t)}
    assert len(codes) >= 3 and all(words.count(NOTES[code].sentence) >= 1 for code in codes)
    assert all(w["sentence"].startswith(NOTES[w["code"]].sentence.rstrip(".")) for w in explain(table1(out).warnings[0], read_local(out)))


def test_a_code_of_a_later_version_is_no_obstacle(made):
    local = read_local(made[0]).query("method == 'egger'")
    assert explain("from_the_future (1/6)", local) == [{"code": "from_the_future", "count": "1 of 6 windows", "sentence": UNKNOWN.sentence}]


def test_explanations_give_the_numbers_of_the_windows_that_warn(made):
    local = read_local(made[0]).query("method == 'egger'").assign(mean_f=[2.0, 4.0, 50.0] * 2)
    local["warnings"] = np.where(local.mean_f < 10, "weak_instruments", "")
    said = explain("weak_instruments (4/6)", local)[0]
    assert said["count"] == "4 of 6 windows" and said["sentence"].endswith("(mean F in these windows: 2 to 4).")


def browse_command(profile):
    "Chromium that stays away from the network."
    return [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--enable-logging=stderr"]


def browse(page, profile, *options):
    return subprocess.run([*browse_command(profile), *options, page.as_uri()], capture_output=True, text=True, timeout=120)


PROBE = """<!DOCTYPE html><title>waiting</title><iframe id="page" width="%d" height="800" style="border: 0" srcdoc="%s"></iframe>
<script>window.addEventListener("load", function () {
  var page = document.getElementById("page").contentWindow, doc = page.document, table = doc.querySelector("table.sortable");
  var button = table.tHead.rows[0].cells[1].firstChild;
  var effects = function () { return Array.from(table.tBodies[0].rows).map(function (r) { return Number(r.cells[1].dataset.v); }); };
  button.click(); var down = effects(), said = table.tHead.rows[0].cells[1].getAttribute("aria-sort"); button.click(); var up = effects();
  doc.querySelectorAll("details").forEach(function (d) { d.open = true; });
  Array.from(doc.images).forEach(function (i) { i.loading = "eager"; });
  setTimeout(function () {
    document.title = JSON.stringify({down: down, up: up, said: said, images: doc.images.length, inner: page.innerWidth,
      broken: Array.from(doc.images).filter(function (i) { return !i.naturalWidth; }).length,
      wide: doc.documentElement.scrollWidth - doc.documentElement.clientWidth});
  }, 500); });</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser_it_sorts_shows_and_fits(made, tmp_path, width):
    text = re.sub(r"<meta http-equiv[^>]*>", "", made[1])  # the policy is tested below; a frame inherits none
    (tmp_path / "probe.html").write_text(PROBE % (width, html.escape(text)))
    done = browse(tmp_path / "probe.html", tmp_path / "profile", "--dump-dom", "--virtual-time-budget=5000")
    seen = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", done.stdout)[1]))
    assert seen["down"] == sorted(seen["down"], reverse=True) and seen["up"] == seen["down"][::-1] and len(set(seen["up"])) == 2
    assert seen["said"] == "descending" and seen["images"] == 6 and seen["broken"] == 0
    assert seen["inner"] == width and seen["wide"] <= 0


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_in_a_browser_the_policy_lets_the_page_work_and_nothing_else(made, tmp_path):
    out, text = made
    done = browse(out / "report.html", tmp_path / "profile", "--dump-dom", "--virtual-time-budget=2000")
    assert "CONSOLE" not in done.stderr and "<details" in done.stdout, done.stderr
    opened = subprocess.run([*browse_command(tmp_path / "profile"), "--dump-dom", (out / "report.html").as_uri() + "#x1"],
                            capture_output=True, text=True, timeout=120).stdout
    assert re.search(r'<details id="x1" open', opened) and not re.search(r'<details id="x0" open', opened)  # its script runs
    (tmp_path / "foreign.html").write_text(text.replace("</body>", "<script>document.title = 'foreign'</script></body>"))
    done = browse(tmp_path / "foreign.html", tmp_path / "profile", "--dump-dom", "--virtual-time-budget=2000")
    assert "<title>foreign" not in done.stdout and "Content Security Policy" in done.stderr
