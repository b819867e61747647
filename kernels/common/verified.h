// verified: which kernels have shown on which card that they are right. The text is kernels/verified.txt as of this build, and after it the file that
// KD_VERIFIED names, for a card that was checked after the build. One line per kernel and card, fields separated by blanks, '#' starts a comment:
//   kernel       date        commit   card
//   stem_fprop   2026-01-31  0a1b2c3  NVIDIA H200
//   card: the driver's name for it, the rest of the line
// A line that is none is left out, with a message on stderr: the kernel's portable twin then runs, so nothing is lost but time.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace kd {

struct Verified {
  std::string kernel, date, commit, card;  // date: YYYY-MM-DD
  bool operator==(const Verified&) const = default;
};
std::string to_string(const Verified&);  // its line
// `problems` gets one text, "<source>:<line>: what is wrong; ...", if any line is none; it names the first and counts the others.
std::vector<Verified> parse_verified(std::string_view text, const std::string& source, std::vector<std::string>& problems);

// Whether a line names both. Both texts are read on the first call; throws where KD_VERIFIED names a file that cannot be read.
bool is_verified(std::string_view kernel, std::string_view card);

}  // namespace kd
