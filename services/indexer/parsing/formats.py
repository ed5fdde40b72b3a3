"""The supported formats and their readers. Runs in the parser process; importing it loads no parser."""

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath

from services.indexer.parsing.document import ParsedDocument
from services.indexer.parsing.office import DOCX, PDF, Unreadable, read_docx, read_pdf
from shared.text import escaped, visible

_MARKDOWN, _TEXT, _HTML = "text/markdown", "text/plain", "text/html"
_BY_SUFFIX = {
    ".md": _MARKDOWN,
    ".markdown": _MARKDOWN,
    ".txt": _TEXT,
    ".text": _TEXT,
    ".html": _HTML,
    ".htm": _HTML,
    ".pdf": PDF,
    ".docx": DOCX,
}
# Goes into every registry entry: raising it re-indexes the lake at the next reconcile.
VERSION = "4"
# Characters of a title or heading; the longest that people write have a third of it.
LONGEST_HEADING = 300
SUPPORTED = "Markdown (.md), text (.txt), HTML (.html), PDF (.pdf) and Word (.docx)"
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?([A-Za-z0-9_\-]{2,30})", re.IGNORECASE)
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a document and its parser; a document beyond them is refused. Times are of one document."""

    most_bytes: int = 32 * 1024 * 1024
    most_pages: int = 2_000
    most_characters: int = 5_000_000
    # What a Word document, which is a zip archive, may unpack to: in bytes, and as a multiple of its size.
    most_unpacked: int = 256 * 1024 * 1024
    most_ratio: int = 200
    memory_bytes: int = 1024 * 1024 * 1024
    cpu_seconds: int = 60
    wall_seconds: float = 90

    def as_dict(self) -> Mapping[str, int | float]:
        """The argument of the parser process."""
        return asdict(self)


def format_of(path: str, content_type: str = "") -> str | None:
    """The format of a blob by its name, and by its content type only if the name has no ending."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix:
        return _BY_SUFFIX.get(suffix)
    mime = content_type.partition(";")[0].strip().lower()
    return mime if mime in _BY_SUFFIX.values() else None


def read(data: bytes, path: str, content_type: str, limits: Limits) -> ParsedDocument:
    """Read a document of any supported format; raises `Unreadable` with a sentence."""
    if len(data) > limits.most_bytes:
        raise Unreadable(f"it has {len(data):,} bytes; the maximum is {limits.most_bytes:,}")
    mime = format_of(path, content_type)
    if mime is None:
        raise Unreadable(f"this type is not supported; supported are {SUPPORTED}")
    if mime == PDF:
        document = read_pdf(data, most_pages=limits.most_pages)
    elif mime == DOCX:
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                unpacked = sum(member.file_size for member in archive.infolist())
        except zipfile.BadZipFile as broken:
            raise Unreadable(f"it is not a Word document: {broken}") from broken
        # An archive that declares a wrong size meets the memory limit of the process.
        if unpacked > limits.most_unpacked or unpacked > limits.most_ratio * max(len(data), 1):
            raise Unreadable(f"it unpacks from {len(data):,} to {unpacked:,} bytes, like a zip bomb")
        document = read_docx(data)
    else:
        document = _text_reader(mime)(decode(data))
    if len(document.text) > limits.most_characters:
        raise Unreadable(f"it has {len(document.text):,} characters; the maximum is {limits.most_characters:,}")
    # Title and headings go into every passage, prompt and citation; a line of a megabyte would fill them.
    blocks = tuple(replace(block, headings=tuple(map(_short, block.headings))) for block in document.blocks)
    return replace(document, title=_short(document.title or _title_from(path)), blocks=blocks)


def decode(data: bytes) -> str:
    """Bytes as text: by byte order mark, as UTF-8, by an HTML page's declaration, else as Windows-1252.

    Raises `Unreadable` for a binary file.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    if b"\0" in data[:4096]:
        raise Unreadable("it is a binary file, not text")
    declared = _META_CHARSET.search(data[:2048])
    for encoding in ("utf-8", declared[1].decode() if declared else "cp1252", "cp1252"):
        try:
            return data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return data.decode("latin-1")


def _text_reader(mime: str) -> Callable[[str], ParsedDocument]:
    if mime == _MARKDOWN:
        from services.indexer.parsing.markdown import read_markdown

        return read_markdown
    if mime == _HTML:
        from services.indexer.parsing.html import read_html

        return read_html
    from services.indexer.parsing.plain_text import read_plain_text

    return read_plain_text


def _short(heading: str) -> str:
    return heading if len(heading) <= LONGEST_HEADING else f"{heading[:LONGEST_HEADING].rstrip()} …"


def _title_from(path: str) -> str:
    name = visible(path)
    return " ".join(PurePosixPath(name).stem.replace("-", " ").replace("_", " ").split()) or escaped(path)
