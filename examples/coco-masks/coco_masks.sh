#!/bin/sh
# Adds masks to a COCO file that has boxes: COCO in, COCO out.
#
#   sh coco_masks.sh boxes.json photos masks.json
#
# Each annotation gets a segmentation (run lengths, which pycocotools reads), an area and a score by its bbox.
# Everything else in the file stays as it is. Start it again after an interruption: it goes on where it stopped.
set -eu
if [ $# -ne 3 ]; then
  echo "usage: sh coco_masks.sh BOXES.json PHOTOS_FOLDER MASKS.json" >&2
  exit 2
fi
exec edgesam-client --folder "$2" --boxes "$1" --coco-rle "$3"
