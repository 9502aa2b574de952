"""The page's policy: it allows what is in the file, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re

from cdc_outbox.observe.status_page import HTML, POLICY, content_security_policy


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_inline_that_has_no_hash() -> None:
    text = HTML.decode()

    assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", text)
    assert not re.search(r"\s(?:on\w+|style)=", text)
    assert "innerHTML" not in text
    assert "unsafe" not in POLICY


def test_the_policy_names_the_hash_of_the_script_as_the_browser_computes_it() -> None:
    digest = base64.b64encode(hashlib.sha256(b"\nlet a;\n").digest()).decode()

    assert f"script-src 'sha256-{digest}'; style-src 'sha256-" in content_security_policy(
        b"<style>b{}</style><script>\nlet a;\n</script>"
    )


def test_the_file_has_one_script_and_one_style() -> None:
    assert re.findall(r"(script|style)-src ('sha256-[\w+/=]{44}')(?=;)", POLICY) == [
        (kind, hashed) for kind, hashed in zip(("script", "style"), re.findall(r"'sha256-[^']+'", POLICY), strict=True)
    ]
