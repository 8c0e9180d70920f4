"""What the page at `/` may do: run the script and style that stand in it, and ask its own server.

In: the page. Out: its content security policy, by the hashes of its parts, so that a text which becomes a script in it
does not run.
"""

import base64
import hashlib
import re


def content_security_policy(page: str) -> str:
    """The header that belongs to a page with one script and one style."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hashes(page, 'script')}",
            f"style-src {_hashes(page, 'style')}",
            "img-src data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _hashes(page: str, tag: str) -> str:
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
