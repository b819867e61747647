// png: pixels and drawings as PNG files in memory, and bytes as text for what is embedded in pages.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace kd {

std::vector<uint8_t> encode_png(const uint8_t* rgb, int64_t height, int64_t width);  // [height, width, 3]

std::string base64(std::span<const uint8_t>);  // RFC 4648, padded
// Square RGB pictures brought to at most `side` pixels by area averages; smaller ones stay as they are.
std::vector<uint8_t> thumbnail(const std::vector<uint8_t>& rgb, int64_t px, int64_t side);

// Drawings need librsvg and cairo at build time (KD_PNG); without them draws_png() is false and draw_png throws.
bool draws_png();
// An SVG file at `scale` pixels a unit, RGBA. Throws one line for what is no SVG.
std::vector<uint8_t> draw_png(const std::string& svg, double scale);

}  // namespace kd
