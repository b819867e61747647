// switches: what the published code of arXiv 2405.00739 does that a reader of the paper would not expect, each with the settings that reproduce it;
// and recipes as text for people who want to know what a run will do and why.
#pragma once
#include <string>
#include <vector>

#include "engine/base/file.h"

namespace kd {

// preset=as-published sets every `published` value, preset=clean every `clean` one.
struct Switch {
  struct Value {
    std::string key, published, clean;  // printed as in to_yaml; of a student on `data`
    std::string data = "cifar100";
  };
  std::string id;                    // "P1" ... "P30", as in docs/recipes.md
  std::string fact;                  // what the published code does
  std::vector<Value> settings = {};  // none: no setting of a run
  std::string here = {};             // what this project does, where that needs saying
  std::string reproduced = {};       // where the published value is, of what no setting of a run decides; empty: nowhere
};
const std::vector<Switch>& switches();

// The whole recipe as YAML that loads back, each line with its value's origin and, where the value is an oddity of the published code, its id.
std::string recipe_show(const Path& file, const std::vector<std::string>& words);

// The keys whose values differ, side by side. a, b: preset names, recipe files or run directories; the words are added to both.
std::string recipe_diff(const std::string& a, const std::string& b, const std::vector<std::string>& words);

}  // namespace kd
