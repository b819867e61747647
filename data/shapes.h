// shapes: a small picture classification task made on the spot, for runs that need no download and for judging attention maps against the truth.
// 32x32 RGB; one textured object out of ten classes on textured, cluttered ground; position, size, rotation, stretch, colours, texture, light and
// noise are random. Only the outline depends on the class: object and ground take their colours and textures from one distribution.
// An image is a pure function of (seed, index, train): integers and correctly rounded double operations only, so every machine draws the same bits.
#pragma once
#include "data/dataset.h"

namespace kd {

// `count` images, class of image i = i mod 10, with the object's true mask (a pixel belongs to it when at least half of its area does; never fewer
// than 30 pixels). Training and test images of one seed are different pictures.
Dataset make_shapes(int64_t count, uint64_t seed, bool train);

}  // namespace kd
