"""Folders of image files, with a class for each folder."""

from tokjax.core.errors import SourceError
from tokjax.core.registry import image_sources
from tokjax.data.address import matching_files, read_size, split_options
from tokjax.data.images.base import Images, open_images
from tokjax.data.images.files import Tiles, WholeFiles


@image_sources.register("folder")
def folder(rest: str) -> Images:
    """Local image files, the folder of each being its class: folder:GLOB[?size=64&cut=tiles].

    With `size`, the centre square of each image is resized, or every image is cut into tiles of that size. Otherwise
    images stay as they are. Splits are drawn by file. Training and test images in folders of their own are two
    sources, such as 'folder:pets/train/**/*.jpg' and 'folder:pets/test/**/*.jpg'.

    Raises:
      SourceError: a path or option that cannot be used, a file that is no image, or nothing to read.
    """
    pattern, options = split_options("folder", rest, size="", cut="square")
    size = read_size("folder", rest, options["size"]) if options["size"] else None
    if options["cut"] not in ("square", "tiles"):
        raise SourceError(f"folder:{rest}: cut={options['cut']}; expected 'square' or 'tiles'.")
    paths = matching_files("folder", pattern, ending=".png")
    classes = sorted({path.absolute().parent.name for path in paths})
    number = {name: index for index, name in enumerate(classes)}
    labels = [number[path.absolute().parent.name] for path in paths]
    advice = "Add files"
    if options["cut"] == "square":
        records: WholeFiles | Tiles = WholeFiles(paths, labels, size)
    elif size is None:
        raise SourceError(f"folder:{rest}: tiles of which size? Write '?cut=tiles&size=64'.")
    else:
        advice = "Add files, or use smaller tiles"
        records = Tiles(paths, labels, size, [""] * len(paths))
    return open_images(f"folder:{rest}", records, classes=classes, advice=advice)
