// archive: takes the files out of a .tar.gz (POSIX ustar and GNU tar) without trusting it.
#pragma once
#include <string>

#include "engine/base/file.h"

namespace kd {

// Writes the archive's regular files below `into`, directories as needed. Input errors: damage (gzip's and tar's checksums), truncation, a name that is
// absolute or climbs out with "..", anything but files and folders (links, devices), more than `max_bytes` unpacked. Nothing is overwritten: a name that
// exists, or comes twice, is an error too. What was unpacked before an error stays.
void unpack_tar_gz(const Path& archive, const Path& into, int64_t max_bytes);

}  // namespace kd
