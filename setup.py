"""Packaging metadata lives in settings.ini: edit it there, not here."""
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
extras = {key: shlex.split(cfg[f"{key}_requirements"]) for key in ("kipoi", "train", "dev")}

setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], keywords=cfg["keywords"].split(),
    author=cfg["author"], license=cfg["license"], url=cfg["git_url"],
    long_description=(here / "README.md").read_text(encoding="utf-8"), long_description_content_type="text/markdown",
    classifiers=["Programming Language :: Python :: 3 :: Only", f"Intended Audience :: {cfg['audience']}",
                 f"Natural Language :: {cfg['language']}", "Topic :: Scientific/Engineering :: Bio-Informatics"],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[cfg["lib_path"], f"{cfg['lib_path']}.*"]),
    package_data={cfg["lib_path"]: ["data/*"]},
    install_requires=shlex.split(cfg["requirements"]), extras_require=extras,
    entry_points={"console_scripts": [cfg["console_scripts"]],
                  "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]},
)
