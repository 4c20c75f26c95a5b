#!/usr/bin/env bash
# Prepare a dataset from its download. `bash script/prepare.sh --help` says how.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash script/prepare.sh dataset=<name> raw=<folder or zip> [key=value ...] [--check] [--debug]

Turns what a challenge's site gives, or your own NIfTI files, into prepared volumes and supervoxels. The first
call prepares the Python environment, as script/train.sh --help says.

  bash script/prepare.sh dataset=CHAOST2 raw=downloads/CHAOS_Train_Sets.zip
  bash script/prepare.sh dataset=SABS raw=downloads/Abdomen/RawData/Training     img/ and label/ lie in it
  bash script/prepare.sh dataset=CMR raw=downloads/MSCMRSeg                      patient<N>_C0.nii.gz and _manual
  bash script/prepare.sh dataset=PELVIS raw=scans/pelvis                         your own, with a dataset.json
  bash script/prepare.sh dataset=CHAOST2 raw=downloads/CHAOS --check             only checks, writes nothing

Everything is checked before anything is written: every problem costs one line, and the exit code is then 2.
A second call makes only what is missing or whose download, parameters or code changed; an interrupted one goes
on. A zip file is unpacked beside data_dir for the time of the work.

  dataset=          CHAOST2, SABS, CMR, or a name for your own data
  raw=              the download: a folder, or its zip file
  data_dir=         where the prepared volumes go; by default data/<dataset>, where training looks
  supervoxel_dir=   where supervoxels_<n_sv> goes; by default data_dir
  n_sv=             least supervoxel size in voxels; by default the dataset's
  num_workers=      scans in work at once; by default one for each core. Fewer need less memory
  check=True        only check the download, as --check does
  force=True        make all volumes anew, and replace those that others made

data_dir then holds the volumes, the supervoxels, cases.json (which scan is which of the download),
fingerprint.json (shapes, spacings, intensities, organs, hashes) and contact_sheet.png, which is worth a look:
is left left, do labels sit on organs? Both are there only when all is done. Relative paths start at the
repository's root, where the script runs.
USAGE
}

# shellcheck source=script/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
help_if_asked "$@"
prepare_environment
exec "$python" -m data.prepare "$@"
