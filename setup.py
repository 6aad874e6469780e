"""Packaging metadata lives in settings.ini: edit it there, not here."""
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_namespace_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
extras = {key.removesuffix("_requirements"): shlex.split(cfg[key]) for key in cfg if key.endswith("_requirements")}

setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], keywords=cfg["keywords"].split(),
    author=cfg["author"], license=cfg["license"], url=cfg["git_url"],
    long_description=(here / "README.md").read_text(encoding="utf-8"), long_description_content_type="text/markdown",
    classifiers=["Programming Language :: Python :: 3 :: Only", f"Intended Audience :: {cfg['audience']}",
                 f"Natural Language :: {cfg['language']}", "Topic :: Scientific/Engineering :: Bio-Informatics"],
    python_requires=f">={cfg['min_python']}",
    packages=find_namespace_packages(include=[cfg["lib_path"], f"{cfg['lib_path']}.*"]),
    package_data={cfg["lib_path"]: ["data/*", "py.typed"]},
    install_requires=shlex.split(cfg["requirements"]), extras_require=extras,
    entry_points={"console_scripts": [cfg["console_scripts"]],
                  "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]},
)
