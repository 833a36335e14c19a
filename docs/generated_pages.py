"""The pages of the site that are made of other files when it is built, by functions that MkDocs calls, ``on_…``.

- README, CONTRIBUTING, CHANGELOG, ``benchmarks/README.md`` and ``examples/README.md`` become pages, so that nothing is
  written twice. The last has the text of every example below it.
- ``configurations.md`` lists every YAML file of ``configs/`` with its comment.
- ``api/ROOM.md`` has the public classes and functions of each package, from their docstrings.

Links between these files hold in the repository, and are turned into links between pages. A page that would fetch
something from another machine when it is opened ends the build.
"""

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[1]

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    "examples/README.md": "examples.md",
}
"""Files outside docs/ by their paths, and the pages that they become."""

PACKAGES = ("lightning_modules", "datamodules", "callbacks", "catwalk")
"""The packages. Each is a page, as is each folder in ``catwalk``."""

LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video)\b[^>]*\ssrc=[\"']?(?:https?:)?//|"
    r"<link\b[^>]*\srel=[\"']?(?:stylesheet|preload|preconnect|icon)\b[^>]*\shref=[\"']?(?:https?:)?//|"
    r"<link\b[^>]*\shref=[\"']?(?:https?:)?//[^>]*\srel=[\"']?(?:stylesheet|preload|preconnect|icon)\b"
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the packages in the navigation, in the place of ``api/``."""

    def filled(entry: Any) -> Any:
        if isinstance(entry, list):
            return [filled(inner) for inner in entry]
        if isinstance(entry, dict):
            return {title: filled(inner) for title, inner in entry.items()}
        return [{package: page} for package, page in api_pages().items()] if entry == "api/" else entry

    config.nav = filled(config.nav)
    config.watch += [str(REPOSITORY / path) for path in (*PAGES, "configs", *PACKAGES)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made of other files."""
    texts = {page: moved((REPOSITORY / path).read_text("utf-8"), path) for path, page in PAGES.items()}
    texts["index.md"] = "---\nhide: [navigation]\n---\n\n" + texts["index.md"]
    texts["examples.md"] += examples()
    texts["configurations.md"] = configurations()
    texts |= {page: reference(package) for package, page in api_pages().items()}
    for page, text in texts.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn a page's links to files outside docs/ into links to the pages that they become."""
    return markdown if page.file.generated_by else moved(markdown, f"docs/{page.file.src_uri}")


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that fetches something when it is opened.

    Raises:
        PluginError: With what it fetches.
    """
    if found := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri}: would be fetched when the page is opened: {found[0]}")
    return output


def moved(markdown: str, path: str) -> str:
    """Return the text of a file of the repository with its links to other files as links between pages.

    Links to files that become no page are left as names: they are not part of the site.

    Args:
        markdown: The text.
        path: The file's path in the repository, such as ``benchmarks/README.md``.
    """

    def target(match: re.Match[str]) -> str:
        text, link, anchor = match.groups(default="")
        linked = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        if linked in PAGES or linked.startswith("docs/"):
            return f"[{text}]({PAGES.get(linked, linked.removeprefix('docs/'))}{anchor})"
        return text if (REPOSITORY / linked).exists() else match[0]

    kept = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(target, part) for part in kept)


def examples() -> str:
    """Return the end of the examples' page: the text of each, with that of its configuration."""
    lines = ["", "## The files"]
    for path in sorted((REPOSITORY / "examples").glob("*.py")):
        lines += ["", f"### {path.stem}"]
        for file, language in ((path, "python"), (path.with_suffix(".yaml"), "yaml")):
            name = file.relative_to(REPOSITORY).as_posix()
            lines += ["", f'```{language} title="{name}"', file.read_text("utf-8").rstrip(), "```"]
    return "\n".join(lines) + "\n"


def configurations() -> str:
    """Return a page with every configuration, by folder: its comment, and what it states."""
    lines = [
        "# Configurations",
        "",
        "The files that come with Catwalk. `--config configs/…` finds them from any folder, several of them stack, and",
        "each states only what differs from the defaults in code.",
    ]
    folder = None
    for path in sorted((REPOSITORY / "configs").rglob("*.yaml")):
        name = path.relative_to(REPOSITORY).as_posix()
        if path.parent != folder:
            folder = path.parent
            lines += ["", f"## {folder.relative_to(REPOSITORY).as_posix()}/"]
        comment, text = split_comment(path.read_text("utf-8"))
        if not comment:
            raise PluginError(f"{name}: begins with no comment that says what it is for")
        lines += ["", f"### {path.name}", "", comment, "", f'```yaml title="{name}"', text, "```"]
    return "\n".join(lines) + "\n"


def split_comment(text: str) -> tuple[str, str]:
    """Return the comment at the head of a YAML file as Markdown, and what follows it.

    A line of the comment that is indented further than the first is code.
    """
    head = re.match(r"(?:#.*\n)*", text)
    assert head is not None
    lines = [line.removeprefix("#").removeprefix(" ") for line in head[0].splitlines()]
    comment = "\n".join(f"\n    {line.strip()}\n" if line.startswith("  ") else line for line in lines)
    return comment.strip(), text[head.end() :].rstrip()


def api_pages() -> dict[str, str]:
    """Return the page of each package that defines something public, by the package's import path."""
    rooms = [path.name for path in sorted((REPOSITORY / "catwalk").iterdir()) if (path / "__init__.py").is_file()]
    names = (*PACKAGES, *(f"catwalk.{room}" for room in rooms))
    return {name: f"api/{name.replace('.', '_')}.md" for name in names if public(name)}


def public(package: str) -> dict[str, list[str]]:
    """Return the public classes and functions of a package by the modules that define them, itself first."""
    folder, found = REPOSITORY / package.replace(".", "/"), {}
    paths = folder.glob("*.py") if package == "catwalk" else folder.rglob("*.py")
    for path in sorted(paths, key=lambda path: (path != folder / "__init__.py", path)):
        nodes = [
            node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef | ast.FunctionDef)
        ]
        if names := [node.name for node in nodes if not node.name.startswith("_")]:
            found[".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")] = names
    return found


def reference(package: str) -> str:
    """Return the page of a package: its docstring, and the contents of its modules.

    What the package itself only imports stands with the module that defines it.
    """
    modules = public(package)
    own = ", ".join(modules.pop(package, []))
    lines = [
        f"# {package} {{ #{package} }}",
        "",
        f"::: {package}",
        "    options:",
        f"      members: [{own}]" if own else "      members: false",
        "      show_root_heading: false",
        "      show_root_toc_entry: false",
    ]
    return "\n".join([*lines, *(f"\n::: {module}" for module in modules)]) + "\n"
