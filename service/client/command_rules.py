"""Which arguments of the command line go together."""

from dataclasses import dataclass

from .annotation_files import AnnotationPaths


@dataclass(frozen=True, slots=True)
class Use:
    """What the arguments ask for.

    Args:
        has_image: Whether there is an image file.
        has_folder: Whether there is --folder.
        has_boxes: Whether there is --boxes.
        has_masks: Whether there is --masks.
        has_prompt: Whether there is --point or --box.
        is_everything: Whether there is --everything.
        has_everything_options: Whether there are options that only --everything uses.
        has_output: Whether there is --output.
        has_mask_options: Whether there is --mask, --crop or --candidate.
        annotations: Paths of annotations.
        has_label: Whether --label is not empty.
    """

    has_image: bool
    has_folder: bool
    has_boxes: bool
    has_masks: bool
    has_prompt: bool
    is_everything: bool
    has_everything_options: bool
    has_output: bool
    has_mask_options: bool
    annotations: AnnotationPaths
    has_label: bool

    @property
    def has_file(self) -> bool:
        """Whether a file is to be written, or how it is written is said."""
        return self.has_output or self.has_mask_options or bool(self.annotations)

    @property
    def has_only_coco(self) -> bool:
        """Whether COCO files and no others are to be written."""
        paths = self.annotations
        return bool(paths.coco or paths.coco_rle) and not self.has_other_files

    @property
    def has_other_files(self) -> bool:
        """Whether files are to be written that a run over a folder does not make."""
        return bool(self.has_output or self.annotations.labelme or self.annotations.yolo)


def refusal_of(use: Use) -> str | None:
    """The reason to refuse the arguments, or None."""
    rules = (
        (use.has_image == use.has_folder, "give an image file, or a folder with --folder"),
        (use.has_everything_options and not use.is_everything, "the options of --everything need --everything"),
        (
            use.is_everything and (use.has_prompt or use.has_mask_options),
            "--everything has no prompt; leave out --point, --box, --candidate, --crop and --mask",
        ),
        (
            use.has_folder and use.is_everything and not use.has_only_coco,
            "--folder with --everything writes --coco, --coco-rle, or both",
        ),
        (
            use.has_boxes and (not use.has_folder or use.is_everything or use.has_prompt or use.has_mask_options),
            "--boxes needs --folder; leave out --everything, --point, --box, --candidate, --crop and --mask",
        ),
        (
            use.has_boxes and (use.has_other_files or not (use.has_masks or use.annotations)),
            "--boxes writes --masks, --coco, --coco-rle, or several of them, and no other files",
        ),
        (use.has_masks and not use.has_boxes, "--masks needs --boxes; --mask writes the mask of one image"),
        (
            use.has_folder and not (use.is_everything or use.has_boxes) and (use.has_prompt or use.has_file),
            "--folder only embeds images; leave out --point, --box, --candidate, --crop and the files to write",
        ),
        (
            use.has_image and use.has_file and not (use.has_prompt or use.is_everything),
            "give a prompt with --point or --box, or --everything",
        ),
        (not use.has_label, "--label needs a name"),
    )
    return next((message for is_wrong, message in rules if is_wrong), None)
