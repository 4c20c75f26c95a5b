#!/usr/bin/env bash
# Segment scans of your own; see `bash script/predict.sh --help`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash script/predict.sh reload_model_path=<snapshot or run> support_image=<scan> support_label=<mask>
                              query=<scans> out=<folder> [key=value ...] [--debug]
       bash script/predict.sh modality=<MR or CT> [minutes=20] support_image=... support_label=... query=... out=...
       bash script/predict.sh method=registration modality=<MR or CT> support_image=... support_label=... query=...
                              out=...

Segments scans with a trained network and one annotated scan, or several. The second form trains the network on
the scans themselves first, which needs no label; the third has no network, and warps the mask of the annotated
scan to the others in some seconds each. Research use only: not a medical
device, check every mask. The first call prepares the Python environment, see script/train.sh --help.

  bash script/predict.sh reload_model_path=runs/CHAOST2/fold_0/training/1 support_image=a.nii.gz \
      support_label=a_seg.nii.gz query=scans out=masks             every scan in a folder
  ... query='scans/*_t2.nii.gz' labels=1:liver,4:spleen            a pattern; two labels, with names
  ... support_image=a.nii.gz,b.nii.gz support_label=a_seg.nii.gz,b_seg.nii.gz    two annotated scans

Scans are NIfTI, NRRD or MetaImage files, or folders of a DICOM series. Every mask lies on the grid of its scan
and has its name. out also holds predictions.html (pictures to check, doubtful scans first), volumes.csv (ml),
agreement.csv, supports.csv (of several annotated scans) and prediction.json.

  reload_model_path=   the trained network: a snapshot, a run folder, or <run folder>/best for the snapshot of its best
                       validation; without it, one is trained on the scans
  method=              network (default); registration: the supports' masks, warped to each scan, without any network
  modality=            MR or CT, without reload_model_path
  minutes=             for its preparation, training and adaptation together; default 20
  support_image=       annotated scan, or several, separated by commas
  support_label=       their masks in the same order, on the grids of the scans
  query=               scans to segment: a file, a folder or a pattern, or several
  out=                 folder of the results
  format=              auto (default): each scan's own, and NIfTI for a DICOM series; dicom_seg: DICOM-SEG, which needs
                       DICOM series and `pip install -r script/requirements/dicom.txt`
  labels=              labels to segment, as 1,4 or 1:liver or liver; default all of the supports
  guide=               registration (default): each support's mask, warped to the query, joins the network;
                       none: the network alone
  adaptation=          steps in which the network learns from the supports first, such as 150 (1.6 s each on a CPU
                       core at 128 px); auto (default): 150 on a GPU, 0 without one; for a network trained on the
                       scans, half of the steps that minutes allows, at most 600
  unet_steps=          steps in which a U-Net learns from the supports, to help the network (600 take four minutes on a CPU
                       core at 128 px); auto (default): as many as adaptation takes, within minutes; 0: no U-Net
  compare_supports=    False: do not segment each of several supports from the others first, which shows how much each
                       helps and takes as long as so many further scans
  test_time_augmentation= 3: average over three versions of each scan (itself, and shifted, scaled and brightened
                       ones), and compare them; at most 5; default 1
  work=                folder of what a second call reuses; default <out>/work
  slices=              only these slices of each query file, as 10:30 (counted from 0, the last one excluded)
  largest_component=   True: keep the largest connected component of each organ, and fill its holes
  intensity_weight=    weight of each scan's own intensities, inside the segmented organ to around it; default 2, 0: off
  confidence=          True: also write each label's probability
  report=              False: leave out predictions.html, the pictures of every scan
  prepared=            True: all scans are prepared volumes already, whose intensities are not clipped again
  orientation=         axis codes the network expects, such as LPS; default those of its training scans
  data_dir=            folder of the training data; default as in the training
  device=              cpu, cuda, cuda:<n>, mps, or auto (default)
  precision=           fp32 (default), tf32, bf16, or auto

A scan that cannot be segmented is reported, and the others are segmented; the exit code is then 3, or 2 if none
could be. Other mistakes are reported before any work, a line each, with exit code 2. Relative paths are relative
to the repository's root.
USAGE
}

# shellcheck source=script/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
handle_help "$@"
prepare_environment
exec "$python" prediction.py "$@"
