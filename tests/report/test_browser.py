"""The page in a headless Chromium: no console error, no request, no sideways scrolling on a phone."""

import html
import json
import re
import shutil
import subprocess

import pytest

from fisherscope.report import write_report

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="none of chromium, chromium-browser and google-chrome is installed"
)

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--virtual-time-budget=4000",
]

RECORDER = """<script>
window.errors = [];
const note = (kind, what) => window.errors.push(kind + ': ' + what);
for (const kind of ['error', 'warn']) console[kind] = (...args) => note('console.' + kind, args.join(' '));
addEventListener('error', e => note('error', e.message || e.target.src || e.target.href), true);
addEventListener('unhandledrejection', e => note('rejection', e.reason));
</script>"""

READER = """<script>
addEventListener('load', () => setTimeout(() => {
  const inner = document.querySelector('iframe').contentWindow, root = inner.document.documentElement;
  document.getElementById('result').textContent = JSON.stringify({
    errors: inner.errors, width: inner.innerWidth, scrollWidth: root.scrollWidth,
    requests: inner.performance.getEntriesByType('resource').map(e => e.name),
    broken: [...inner.document.images].filter(i => !i.naturalWidth).length, images: inner.document.images.length,
  });
}, 500));
</script>"""


def dump_dom(path, profile, *flags):
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)


def observe(page, folder, width=390):
    """Show a page in a frame of a phone's width and return what it did.

    The frame holds a copy without the security policy, so that a load the policy would hide is seen.
    """
    copy = re.sub(r"<meta http-equiv=.Content-Security-Policy.[^>]*>", "", page).replace(
        "<head>", f"<head>{RECORDER}", 1
    )
    frame = f'<iframe style="border:0;width:{width}px;height:800px" srcdoc="{html.escape(copy)}"></iframe>'
    wrapper = folder / "wrapper.html"
    wrapper.write_text(f'<!DOCTYPE html><body>{frame}<pre id="result"></pre>{READER}</body>')
    shown = dump_dom(wrapper, folder / "profile").stdout
    return json.loads(html.unescape(re.search(r'<pre id="result">(.*?)</pre>', shown, re.DOTALL)[1]))


@pytest.fixture(scope="module")
def report(tmp_path_factory, content):
    return write_report(content, tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("width", [390, 1200])
def test_page_is_quiet_complete_and_fits(report, tmp_path, width):
    page = report.read_text().replace("<details>", "<details open>")
    seen = observe(page, tmp_path, width)
    assert seen["errors"] == []
    assert seen["requests"] == []
    assert seen["width"] == width and seen["scrollWidth"] <= width
    assert seen["images"] > 10 and seen["broken"] == 0


def test_page_as_written_logs_nothing(report, tmp_path):
    result = dump_dom(report, tmp_path / "profile", "--enable-logging=stderr", "--v=0")
    assert "Likelihood fails on 2 of 2" in result.stdout
    assert "CONSOLE" not in result.stderr


def test_observer_sees_what_it_must(tmp_path):
    bad = """<html><head></head><body><div style="width:900px">wide</div><img src="http://127.0.0.1:9/picture.png">
    <script>console.error("oh no"); missing();</script></body></html>"""
    seen = observe(bad, tmp_path)
    assert seen["scrollWidth"] >= 900
    assert seen["broken"] == 1
    assert any("oh no" in error for error in seen["errors"])
    assert any("missing is not defined" in error for error in seen["errors"])
    assert any("127.0.0.1:9" in item for item in seen["requests"] + seen["errors"])
