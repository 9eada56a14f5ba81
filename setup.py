"""What setup.cfg cannot say: the wheel also carries the recipes, datasets and scripts, which are not below src/."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages("src"), "radrecipes._shipped"],
    package_dir={"": "src", "radrecipes._shipped": "."},
    package_data={
        "radrecipes": ["**/*.yaml", "**/*.jinja", "**/*.css"],
        "radrecipes._shipped": [
            "accelerate_configs/*",
            "constraints.txt",
            "data/label_sets/*",
            "data/*_synthetic/*",
            "recipes/**/*",
            "scripts/*.py",
        ],
    },
)
