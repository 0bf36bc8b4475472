"""import and export: passages, vectors and indexes of other projects' layouts, read and written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from pipelines.console.command import Command, say
from pipelines.console.options import VECTOR_DTYPES, Options, overwrite_setting
from rag_ops.errors import InputError
from rag_ops.settings import setting
from rag_ops.storage import store
from rag_ops.storage.places import check_workspace, local_output
from schemas.layout import CHUNK, EMBED, INDEX

NEEDED = {"dpr": ("index", "passages"), "wiki_dpr": ("input",)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """import: another project's files to a workspace in `output`."""

    format: str = setting("dpr", "dpr (NAME.index.dpr with passages) or wiki_dpr (Parquet)", choices=tuple(NEEDED))
    index: str | None = setting(None, "for dpr: NAME.index.dpr; its .index_meta.dpr is near", metavar="URL")
    passages: str | None = setting(None, "for dpr: psgs_w100.tsv, or the pickled dict of it", metavar="URL")
    input: Sequence[str] = setting((), "for wiki_dpr: its Parquet files", metavar="URL")
    output: str = setting(..., "workspace: gets passages, embeddings and index", metavar="DIR", writes=True)
    encoder: str = setting(
        "facebook/dpr-ctx_encoder-single-nq-base",
        "context encoder that made the vectors: a name, for the record",
        metavar="MODEL",
    )
    dtype: str | None = setting(
        None, "numbers of the vectors on disk; by default float32 for dpr, else float16", choices=VECTOR_DTYPES
    )
    overwrite: bool = overwrite_setting()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_workspace(self.output, "output")
        if missing := [name for name in NEEDED[self.format] if not getattr(self, name)]:
            raise InputError(f"--format {self.format} needs --{missing[0]}")

    @property
    def written(self) -> Sequence[str]:
        """The directories of three stages."""
        return [store.join(self.output, stage.folder) for stage in (CHUNK, EMBED, INDEX)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """export: an `index` to what transformers' RagRetriever opens, in `output`."""

    index: str = setting(..., "output of ragbeam index", metavar="DIR")
    output: str = setting(..., "local directory: gets dataset and index.faiss", metavar="DIR", writes=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        local_output(self.output)


def run_import(options: ImportOptions, beam_arguments: Sequence[str] = ()) -> None:
    """Writes passages, embeddings and index.

    Raises:
        InputError: a file is missing, or of another kind, or the workspace holds what another command made.
    """
    from rag_ops.interop import imports

    if options.format == "dpr":
        assert options.index is not None  # the options checked it
        assert options.passages is not None
        made = imports.import_dpr(
            *(options.index, options.passages, options.output, options.encoder, options.dtype or "float32"),
            overwrite=options.overwrite,
        )
    else:
        made = imports.import_parquet(
            *(options.input, options.output, options.encoder, options.dtype or "float16"), overwrite=options.overwrite
        )
    say(f"import: {made.rows:,} passages with their vectors, in {options.output}")


def run_export(options: ExportOptions, beam_arguments: Sequence[str] = ()) -> None:
    """Writes the dataset and the FAISS file.

    Raises:
        InputError: the index is missing or unfinished.
    """
    from rag_ops.interop import exports

    say(f"export: {exports.export_custom(options.index, options.output)}")


IMPORT = Command.of(
    "import",
    "takes over another project's passages, vectors and index",
    "DPR's own index files, or the Parquet files of the wiki_dpr dataset. Pickles of plain data only are read.",
    ImportOptions,
    run_import,
    takes_beam_flags=False,
)
EXPORT = Command.of(
    "export",
    "writes an index as transformers' RagRetriever opens it",
    'A datasets directory and a FAISS file, for index_name="custom".',
    ExportOptions,
    run_export,
    takes_beam_flags=False,
)
