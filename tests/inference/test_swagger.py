"""The description of the service at /docs, in a real browser."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import EXECUTABLE, chromium, new_page, watch
from fastapi.testclient import TestClient
from playwright.sync_api import Locator, Page, expect

from emotion.inference.answers import FACE_EXAMPLE, FaceAnswer
from emotion.inference.recognizer import Recognizer
from emotion.inference.service import make_service


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The service, run as a user would."""
    command = [sys.executable, "-m", "emotion", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.stdout.readline().split()[-1].removesuffix("/predict")
        process.terminate()


@pytest.fixture
def page() -> Iterator[Page]:
    with chromium() as browser:
        yield new_page(browser, 1200, 1000)


def choose_example(operation: Locator, portrait: Path) -> None:
    operation.locator(".content-type-wrapper select, select.content-type").first.select_option("application/json")


def choose_file(operation: Locator, portrait: Path) -> None:
    operation.locator("input[type=file]").first.set_input_files(portrait)


@pytest.mark.browser
@pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium")
@pytest.mark.parametrize(
    ("choose", "answer"), [(choose_example, r'"images":.*"width": 1,'), (choose_file, '"label": "neutral"')]
)
def test_the_description_can_be_tried_out(
    page: Page, address: str, portrait: Path, choose: Callable[[Locator, Path], None], answer: str
) -> None:
    asked, messages = watch(page)
    page.goto(address)
    assert page.url == f"{address}/docs"
    operation = page.locator(".opblock", has_text="/predict")
    expect(operation.locator(".opblock-summary-method")).to_have_text("POST")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    choose(operation, portrait)
    operation.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table .response")).to_contain_text(re.compile(answer, re.DOTALL))
    # Swagger UI warns of each list of files, but shows it.
    assert set(messages) <= {"Could not find component: JsonSchema_string_binary"}
    assert len(asked) >= 5
    assert all(one.startswith((f"{address}/", "data:", "blob:")) for one in asked)


def test_files_of_the_description() -> None:
    with TestClient(make_service({"none": Recognizer([])})) as client:
        moved = client.get("/", follow_redirects=False)
        assert (moved.status_code, moved.headers["location"]) == (307, "docs")
        text = client.get("/docs").text
        for file in re.findall(r'(?:src|href)="([^"]+)"', text):
            assert client.get(f"/{file}").status_code == 200, file
        assert "<script>" not in text
        assert client.get("/docs/assets/../core.py").status_code == 404


def test_the_example_of_a_face_is_a_face() -> None:
    face = FaceAnswer.model_validate(FACE_EXAMPLE, extra="forbid")
    assert face.score == face.probabilities[face.label] == max(face.probabilities.values())
    assert sum(face.probabilities.values()) == pytest.approx(1, abs=5e-4)
