"""Applying unified diffs."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smithers.errors import ToolPatchFailed
from smithers.tools.patch import apply_patch

LINES = st.lists(
    st.sampled_from(["a\n", "b\n", "\n", "  c\n", "-d\n", "+e\n", "@@ f\n", "\x0cg\u2028h\n"]), max_size=30
)
TEXT = "one\ntwo\nthree\nfour\n"


@given(LINES, LINES, st.integers(0, 4))
def test_a_diff_of_two_texts_turns_one_into_the_other(old: list[str], new: list[str], context: int) -> None:
    patch = "".join(difflib.unified_diff(old, new, "x", "y", n=context))

    if patch:
        assert apply_patch("".join(old), patch) == "".join(new)


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_other_text_is_refused_and_never_crashes(text: str, patch: str) -> None:
    if "@@" not in patch:
        with pytest.raises(ToolPatchFailed):
            apply_patch(text, patch)


def test_file_names_and_git_headers_mean_nothing() -> None:
    patch = "diff --git a/x b/x\nindex 1..2 100644\n--- a/other\n+++ b/any\n@@ -2 +2 @@\n-two\n+2\n"

    assert apply_patch(TEXT, patch) == "one\n2\nthree\nfour\n"


def test_a_hunk_is_found_where_its_lines_have_moved_to() -> None:
    patch = "@@ -1,2 +1,2 @@\n two\n-three\n+3\n@@ -3 +3 @@\n-four\n+4\n"

    assert apply_patch("zero\nhalf\n" + TEXT, patch) == "zero\nhalf\none\ntwo\n3\n4\n"


def test_an_empty_line_of_context_may_have_lost_its_space() -> None:
    assert apply_patch("a\n\nb\n", "@@ -1,3 +1,3 @@\n a\n\n-b\n+c\n") == "a\n\nc\n"


def test_crlf_lines_stay_so_under_a_patch_with_bare_line_feeds() -> None:
    assert apply_patch("a\r\nb\r\n", "@@ -1,2 +1,2 @@\n a\n-b\n+c\n") == "a\r\nc\r\n"


def test_a_missing_last_line_end_is_kept_added_and_taken_away() -> None:
    note = "\\ No newline at end of file\n"

    assert apply_patch("a\nb", f"@@ -1,2 +1,2 @@\n-a\n+A\n b\n{note}") == "A\nb"
    assert apply_patch("a", f"@@ -1 +1 @@\n-a\n{note}+a\n") == "a\n"
    assert apply_patch("a\n", f"@@ -1 +1 @@\n-a\n+a\n{note}") == "a"


def test_an_empty_file_can_be_filled_and_a_file_emptied() -> None:
    assert apply_patch("", "@@ -0,0 +1,2 @@\n+a\n+b\n") == "a\nb\n"
    assert apply_patch("a\n", "@@ -1 +0,0 @@\n-a\n") == ""


@pytest.mark.parametrize(
    "patch",
    [
        "",
        "no patch at all",
        "--- a\n+++ b\n",
        "@@ -1 +1 @@\n-other\n+x\n",
        "@@ -1,2 +1,2 @@\n one\n-TWO\n+2\n",
        "@@ -1,3 +1,3 @@\n one\n-two\n+2\n",
        "@@ -1 +1 @@\n-one\n+1\n+and more\n",
        "@@ -1,2 +1,1 @@\n one\n?two\n",
        "--- a\n+++ a\n@@ -1 +1 @@\n-one\n+1\n--- b\n+++ b\n@@ -1 +1 @@\n-one\n+1\n",
        "@@ -4 +4 @@\n-four\n+4\n@@ -1 +1 @@\n-one\n+1\n",
    ],
)
def test_what_does_not_fit_is_refused(patch: str) -> None:
    with pytest.raises(ToolPatchFailed):
        apply_patch(TEXT, patch)
