"""Render self-contained HTML pages from the templates in `report_page/`."""

from pathlib import Path
from typing import Any

_PAGE_FOLDER = Path(__file__).parent / "report_page"


def render_page(template: str, values: dict[str, Any]) -> str:
    """Fill in a template; every value is escaped unless it is `markupsafe.Markup`.

    Raises:
        ImportError: jinja2 cannot be used.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # late: only pages need it

    environment = Environment(
        loader=FileSystemLoader(_PAGE_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
