from __future__ import annotations

import pytest

from fakestripe import form


@pytest.mark.parametrize(
    ("_case", "text", "decoded"),
    [
        ("flat", "a=1&b=x%20y", {"a": "1", "b": "x y"}),
        ("nested", "a[b][c]=1&a[b][d]=2", {"a": {"b": {"c": "1", "d": "2"}}}),
        ("indexed", "a[0][b]=1&a[1][b]=2", {"a": {"0": {"b": "1"}, "1": {"b": "2"}}}),
        ("appended", "a[]=1&a[]=2", {"a": ["1", "2"]}),
        ("empty value", "a=", {"a": ""}),
        ("nothing", "", {}),
    ],
)
def test_forms_are_decoded(_case, text, decoded):
    assert form.decode(text) == decoded


@pytest.mark.parametrize(
    ("_case", "text"),
    [
        ("value and map", "a=1&a[b]=2"),
        ("map and value", "a[b]=2&a=1"),
        ("list and value", "a=1&a[]=2"),
        ("append of maps", "a[][b]=1"),
        ("unbalanced", "a[b=1"),
        ("text behind", "a[b]c=1"),
        ("too deep", f"a{'[b]' * 10}=1"),
        ("too many", "&".join(f"a{number}=1" for number in range(1_001))),
    ],
)
def test_what_is_no_form_is_refused(_case, text):
    with pytest.raises(form.FormError):
        form.decode(text)
