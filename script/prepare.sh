#!/usr/bin/env bash
# Prepare a dataset from its download; see `bash script/prepare.sh --help`.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash script/prepare.sh dataset=<name> raw=<folder or zip> [key=value ...] [--check] [--debug]
       bash script/prepare.sh dataset=<name> --back <folder> [out=<folder>] [data_dir=<folder>] [kind=<kind>]

Converts the download of a challenge, or your own NIfTI files, to prepared volumes and supervoxels; the second
form brings predictions of prepared volumes back to the grids and names of the raw files. The first call
prepares the Python environment, see script/train.sh --help.

  bash script/prepare.sh dataset=CHAOST2 raw=downloads/CHAOS_Train_Sets.zip
  bash script/prepare.sh dataset=SABS raw=downloads/Abdomen/RawData/Training     with img/ and label/
  bash script/prepare.sh dataset=CMR raw=downloads/MSCMRSeg                      with patient<N>_C0.nii.gz and _manual
  bash script/prepare.sh dataset=PELVIS raw=scans/pelvis                         your own data with a dataset.json
  bash script/prepare.sh dataset=CHAOST2 raw=downloads/CHAOS --check             check only, write nothing
  bash script/prepare.sh dataset=CHAOST2 --back runs/CHAOST2/fold_0/evaluation/1     an evaluation's predictions

Everything is checked before anything is written; each problem is reported in one line, with exit code 2.
A second call rebuilds only what is missing or whose download, parameters or code changed; an interrupted call
resumes. A zip file is temporarily unpacked beside data_dir.

  dataset=          CHAOST2, SABS, CMR, or the name of your own data
  raw=              the download: a folder or a zip file
  data_dir=         folder of the prepared volumes; default data/<dataset>, where training looks for them
  supervoxel_dir=   folder of supervoxels_<n_sv>; default data_dir
  n_sv=             minimum supervoxel size in voxels; default the dataset's
  num_workers=      scans processed at once; default one per core, fewer need less memory
  check=True        only check the download, same as --check
  force=True        rebuild all volumes and replace volumes made by other tools, same as --force
  back=             predictions to bring back, same as --back: an evaluation's run folder, or a folder of
                    scan_<id> or image_<id> files; volumes that this command prepared remember the raw grids
  out=              where they go; default beside the predictions, with _original added
  kind=             what they hold; auto (default): label ids of the dataset, or probabilities of 0 to 1; others are
                    refused. labels: any label ids; continuous: any numbers, which are interpolated linearly

data_dir then holds the volumes, the supervoxels, cases.json (the source of each scan in the download),
fingerprint.json (shapes, spacings, intensities, organs, hashes) and contact_sheet.png; check in it that left and
right are not swapped and that labels match the organs. The last two are written only when everything else is
done. Relative paths are relative to the repository's root.
USAGE
}

# shellcheck source=script/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
handle_help "$@"
prepare_environment
exec "$python" -m data.prepare "$@"
