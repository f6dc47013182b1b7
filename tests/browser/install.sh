#!/bin/bash
# Debian 12 packages of Chromium and its driver; does nothing when they are there. Needs root.
set -euo pipefail
command -v chromium > /dev/null && command -v chromedriver > /dev/null && exit 0
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends chromium chromium-driver fonts-dejavu-core
