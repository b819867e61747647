// gallery: the report's attention maps that a reader can move the threshold of; drawn by the page's script.
#pragma once
#include <string>

#include "bench/runs.h"

namespace kd {

// The controls and the data of every evaluated run of `groups`, in at most about `room` bytes: galleries that do not fit are left out, last first, and
// named. Empty where no run keeps pictures. A <script type="application/json" id="gallery-data"> holds
//   pictures   base64 of RGB bytes, square
//   maps       base64: attention maps, little-endian u16 [side, side], scaled to the whole range; objects, [px, px] bits, lowest first
//   galleries  [{px, models, class_names, items: [{index, label, picture, truth?, models: {M: [pred, conf, side, map]}}]}]; picture, truth, map: places
// so that runs which show the same images to the same teachers share what they have in common.
std::string gallery_html(const std::vector<RunGroup>& groups, size_t room);

}  // namespace kd
