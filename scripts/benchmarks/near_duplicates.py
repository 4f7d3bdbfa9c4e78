"""Near duplicates that finetune-convert finds: copies planted among photographs, and pairs that are none.

    python scripts/benchmarks/near_duplicates.py --images-dir PHOTOGRAPHS

A copy is cropped by up to a tenth of its height and of its width, half to one and a half times as large, mirrored one
time in five, and encoded anew as JPEG of quality 40 to 90. Pairs that are found without the copies are the photographs'
own: look at them, for the count of false pairs takes them for true, and copies of either for copies of both.
"""

import argparse
import io
import random
import shutil
from pathlib import Path

from history import Figure, record
from measuring import make_parser, parse, print_machine, print_table, temporary_folder
from PIL import Image

from finetune.commands.duplicate_search import find_pairs
from finetune.datasets.folders import scan_images
from finetune.datasets.groups import joined
from finetune.datasets.image_rules import DEFAULT_RULES
from finetune.settings.convert import ConvertSettings

MOST_CROPPED = 0.1
SIZES = (0.5, 0.7, 1.0, 1.5)
MIRRORED = 0.2
QUALITIES = (40, 90)


def main() -> None:
    """Measures, and prints the table."""
    arguments = parse_arguments()
    print_machine()
    rows, figures = [], []
    own = pairs_in(arguments.images_dir)
    for seed in range(arguments.seeds):
        with temporary_folder(arguments.work_dir) as folder:
            shutil.copytree(arguments.images_dir, folder / "images")
            planted = plant_copies(folder / "images", arguments.copies, seed)
            pairs = pairs_in(folder / "images")
        num_found = len(planted & pairs)
        true = joined({}, own | planted)
        num_false = sum(true.get(first, first) != true.get(second, second) for first, second in pairs)
        rows.append([str(seed), f"{num_found} of {len(planted)}", str(num_false), str(len(pairs))])
        figures.append(Figure(f"copies found, seed {seed}", num_found, "copies"))
    print_table(
        f"Copies planted among photographs that have {len(own)} pairs of their own",
        ["seed", "copies found", "false pairs", "all pairs"],
        rows,
        "",
    )
    record(arguments, figures)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--copies", type=int, default=40, help="that are planted")
    parser.add_argument("--seeds", type=int, default=3, help="how many times")
    return parse(parser)


def pairs_in(images_dir: Path) -> set[tuple[str, str]]:
    """Pairs of files that finetune-convert takes for one picture."""
    settings = ConvertSettings(dataset_dir=images_dir / "records", images_dir=images_dir, find_near_duplicates=True)
    found = find_pairs(scan_images(images_dir), settings, DEFAULT_RULES)
    return {(min(pair.first, pair.second), max(pair.first, pair.second)) for pair in found}


def plant_copies(images_dir: Path, num_copies: int, seed: int) -> set[tuple[str, str]]:
    """Writes near copies of photographs beside them, and returns pairs of both files, relative to the folder."""
    drawn = random.Random(seed)
    files = sorted(path for path in images_dir.rglob("*") if path.is_file())
    planted = set()
    for path in drawn.sample(files, num_copies):
        copy = path.with_name(f"{path.stem}_copy.jpg")
        with Image.open(path) as image:
            copy.write_bytes(near_copy(image, drawn))
        first, second = sorted(each.relative_to(images_dir).as_posix() for each in (path, copy))
        planted.add((first, second))
    return planted


def near_copy(image: Image.Image, drawn: random.Random) -> bytes:
    """A JPEG file of the picture, cropped, resized, and perhaps mirrored."""
    left_out = [drawn.uniform(0, MOST_CROPPED) for _ in range(2)]
    at_first = [drawn.random() for _ in range(2)]
    box = [
        round(side * edge)
        for edges in (
            [part * share for part, share in zip(left_out, at_first, strict=True)],
            [1 - part * (1 - share) for part, share in zip(left_out, at_first, strict=True)],
        )
        for side, edge in zip(image.size, edges, strict=True)
    ]
    left, top, right, bottom = box
    size = drawn.choice(SIZES)
    copy = image.convert("RGB").crop((left, top, right, bottom))
    copy = copy.resize((round(copy.width * size), round(copy.height * size)), Image.Resampling.BICUBIC)
    if drawn.random() < MIRRORED:
        copy = copy.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    buffer = io.BytesIO()
    copy.save(buffer, "JPEG", quality=drawn.randint(*QUALITIES))
    return buffer.getvalue()


if __name__ == "__main__":
    main()
