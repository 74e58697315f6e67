"""How parameters, FLOPs and memory of each family of models grow with depth and with width.

    python launch.py --config experiments/depth_parameters.py

Time: about a minute on two cores; nothing is allocated. Result: tables and a figure. Parameters grow with the square of
the width, and in proportion to depth, except where the ends weigh most: an MLP's first layer, a table of tokens.
"""

from research.comparisons import Family, Growth
from research.models import BERT, GPT, MLP, VGG, ConvNet, ResNet, SeparableNet, SmallResNet, ViT


def get_config() -> Growth:
    small, large, text = (32, 32, 3), (224, 224, 3), (128,)
    widths = (64, 128, 256, 512)
    return Growth(
        families=(
            Family(model=MLP(depth=8, width=128), inputs=(28, 28, 1), depths=(2, 4, 8, 16, 32), widths=widths),
            Family(
                model=ConvNet(features=(16, 32), convolutions=2),
                inputs=small,
                depth="convolutions",
                depths=(1, 2, 4, 8),
                width="features",
                widths=(16, 32, 64, 128),
            ),
            Family(
                model=VGG(depth=11, width=16, hidden=(64,)),
                inputs=small,
                depths=(11, 13, 16, 19),
                widths=(16, 32, 64, 128),
            ),
            Family(model=SmallResNet(depth=20), inputs=small, depths=(8, 14, 26, 50), widths=(16, 32, 64, 128)),
            Family(
                model=ResNet(depth=18), inputs=large, classes=1000, depths=(18, 34, 50, 101), widths=(16, 32, 64, 128)
            ),
            Family(model=SeparableNet(), inputs=large, classes=1000, depths=(18, 28, 40, 60), widths=(8, 16, 32, 64)),
            Family(
                model=ViT(depth=6, width=192, heads=4, scan=True),
                inputs=large,
                classes=1000,
                depths=(3, 6, 12, 24),
                widths=widths,
            ),
            Family(
                model=GPT(depth=6, width=256, heads=4, scan=True),
                inputs=text,
                classes=50_257,
                tokens=50_257,
                depths=(3, 6, 12, 24),
                widths=widths,
            ),
            Family(
                model=BERT(depth=6, width=256, heads=4, scan=True),
                inputs=text,
                tokens=30_522,
                depths=(3, 6, 12, 24),
                widths=widths,
            ),
        )
    )
