"""Packaging of torch-estimator: what is installed, from which folder, and what it depends on."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# The folder `handlers/` is installed inside the one import root, so that a user's own
# `handlers.py` beside a notebook never shadows ours, nor ours theirs.
PACKAGE_DIR = {"estimator": "estimator", "estimator.handlers": "handlers"}


def mapped_packages() -> list[str]:
    """Returns every package under the mapped folders, by the name it is imported with."""
    return [
        package
        for root, folder in PACKAGE_DIR.items()
        for package in (root, *(f"{root}.{name}" for name in find_packages(str(ROOT / folder))))
    ]


setup(
    name="torch-estimator",
    version="0.1.0",
    description="fit, evaluate and predict for PyTorch nets, with one pluggable handler a file",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    package_dir=PACKAGE_DIR,
    packages=mapped_packages(),
    package_data={"estimator": ["py.typed"], "estimator.report": ["*.html", "*.css", "*.js"]},
    include_package_data=False,
    zip_safe=False,
    install_requires=[
        "torch>=2.8",  # nets, optimizers, loaders, devices; 2.13.0 is the tested version
        "numpy>=1.26",  # arrays as training data, random state, the values in a history
        "tqdm>=4.66",  # the progress bar
        "tensorboard>=2.16",  # event files that TensorBoard reads
        "onnx>=1.16",  # checks the file that an export wrote
        "PyYAML>=6.0",  # configuration files of experiments
    ],
    extras_require={
        # Pictures: loss graphs, confusion matrices, sample sheets; and the page of a run.
        "report": [
            "Jinja2>=3.1",  # pages from templates, with everything escaped
            "matplotlib>=3.8",  # figures
            "Pillow>=10.0",  # image files
        ],
        # Metric objects of another library, given to an Estimator as they are.
        "metrics": [
            "torchmetrics>=1.9,<2",  # more than a hundred metrics with their own states
        ],
        # Data sets that are kept as image files, and the digits.
        "datasets": [
            "Pillow>=10.0",  # image files
            "scikit-learn>=1.4",  # brings the digits along
        ],
        # Scores of texts.
        "text": [
            "sacrebleu>=2.4,<3",  # BLEU of translations
        ],
        # What a net looks at.
        "explain": [
            "captum>=0.9,<1",  # attributions of outputs to inputs
            "matplotlib>=3.8",  # pictures of them
            "Pillow>=10.0",  # image files
        ],
        # Search for hyper-parameters.
        "search": [
            "optuna>=5,<6",  # samplers, pruners and study storage
        ],
        # Export to ONNX with a check of the file against the net.
        "onnx": [
            "onnxruntime>=1.18",  # runs the exported file, to compare it with the net
            "onnxscript>=0.7.2,<1",  # translates the traced net into ONNX operators
        ],
        # Work on this repository.
        "dev": [
            "build>=1.2",  # builds the wheel that the tests look into
            "setuptools>=77",  # builds without a network, in the environment itself
            "wheel>=0.43",  # writes the wheel
            "pytest>=8.0",  # runs the tests
            "pytest-cov>=5.0",  # measures statement and branch coverage
            "ruff>=0.8",  # lints and formats
            "mypy>=1.13",  # checks types
            "types-PyYAML>=6.0",  # types of PyYAML
            "types-tqdm>=4.66",  # types of tqdm
            "pycocotools>=2.0.8",  # reference values of average precision
            "scikit-learn>=1.4",  # the digits of the demo, and reference values of metrics
            "nbclient>=0.10",  # executes the notebooks of the tutorials
            "nbformat>=5.10",  # reads them
            "ipykernel>=6.29",  # the kernel that they run in
        ],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
