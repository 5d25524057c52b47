import base64
import html
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fisherscope.report import write_report


@pytest.fixture(scope="module")
def folder(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("report")
    assert write_report(content, folder) == folder / "index.html"
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "index.html").read_text()


def test_nothing_is_loaded_from_anywhere(page):
    loads = re.findall(r"""(?:src|href|srcset|action|data|poster)\s*=\s*["']([^"']*)["']|url\(([^)]*)\)""", page)
    targets = [a or b for a, b in loads]
    assert targets and all(target.startswith("data:") for target in targets)
    assert "@import" not in page and "<script" not in page and '<link rel="stylesheet' not in page
    assert "http://" not in page and "https://" not in page
    assert "default-src 'none'" in page


def test_names_are_escaped(page):
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    assert "<b>odd" not in page


def test_page_says_what_was_measured(page, content):
    text = html.unescape(page)
    for part in (
        content.protocol.statement(),
        content.command,
        "3.98",
        "0123456789abcdef",
        "Likelihood fails on 2 of 2",
    ):
        assert part in text
    for record in content.records:
        for value in (record.auroc, record.auroc_low, record.aupr, record.aupr_in, record.fpr95):
            assert f"{value:.3f}" in text
        assert f"{100 * record.false_alarm_rate:.1f} % at 5 %" in text
    for p in ("p = 1.0e-04", "p = 0.008", "p = 1.000"):
        assert p in text
    assert 'name="viewport"' in page


def test_pictures_on_the_page_are_the_files_in_the_folder(folder, page, content):
    embedded = {base64.b64decode(data) for data in re.findall(r"data:image/png;base64,([^\"]+)", page)}
    names = {path.stem for path in (folder / "figures").iterdir()}
    assert names == {"likelihood", "layer-0", "novel", "samples", *(f"roc-{i}" for i in range(4))}
    for name in names - {"novel"}:
        assert (folder / "figures" / f"{name}.png").read_bytes() in embedded
        assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF-")
    thumbnails = [np.asarray(Image.open(io.BytesIO(png))) for png in embedded]
    first = np.broadcast_to(content.most_novel[0].image.transpose(1, 2, 0), (8, 8, 3))
    assert any(t.shape == (8, 8, 3) and (t == first).all() for t in thumbnails)


def test_results_file_holds_the_numbers(folder, content):
    results = json.loads((folder / "results.json").read_text())
    assert results["records"] == [record.to_json() for record in content.records]
    assert results["protocol"]["statement"] == content.protocol.statement()
    assert results["command"] == content.command
    assert [c["out_dist"] for c in results["comparisons"]] == list(content.protocol.out_dists)
    assert results["comparisons"][0]["difference"]["low"] > 0


def test_report_is_reproducible_and_spares_other_files(folder, page, content):
    (folder / "mine.txt").write_text("keep")
    write_report(content, folder)
    assert (folder / "mine.txt").read_text() == "keep"
    assert (folder / "index.html").read_text() == page
    assert [p.name for p in folder.rglob(".*")] == [".index.html.files"]


def test_a_report_with_fewer_figures_leaves_none_behind(tmp_path, content):
    figures = write_report(content, tmp_path).parent / "figures"
    (figures / "mine.png").write_bytes(b"keep")
    assert len(content.pairs) > 1 and (figures / "roc-1.pdf").is_file()
    write_report(replace(content, pairs=content.pairs[:1]), tmp_path)
    assert (figures / "roc-0.pdf").is_file() and not list(figures.glob("roc-1.*"))
    assert (figures / "mine.png").read_bytes() == b"keep"


def test_empty_parts_leave_their_sections_out(tmp_path, content):
    bare = replace(
        content, pairs=(), bits_per_dim={}, layers=(), most_novel=(), least_novel=(), samples=None, model_card={}
    )
    text = write_report(bare, tmp_path / "bare").read_text()
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == ["AUROC of every detector", "How this was measured"]
    assert not (tmp_path / "bare" / "figures").exists()


def test_records_without_calibration_show_a_dash(tmp_path, content):
    record = replace(content.records[0], fpr_level=None, false_alarm_rate=None, calibration_ks_p=None)
    text = write_report(replace(content, records=(record,), pairs=()), tmp_path).read_text()
    assert "<td>–</td><td>–</td>" in text


def test_failure_leaves_no_partial_report(tmp_path, content):
    broken = replace(content, samples=np.zeros((2, 5, 4, 4), dtype=np.uint8))
    with pytest.raises(ValueError, match="expected uint8"):
        write_report(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()
