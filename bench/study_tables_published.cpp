// study_tables, beside the paper's: names as it writes them, its values next to ours.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "bench/study_tables.h"
#include "engine/base/check.h"

namespace kd {

using namespace study;

std::string paper_name(const std::string& name) {
  const auto read = read_name(name);
  if (!read) return name;
  std::string out;
  for (size_t i = 0; i < read->teachers.size(); ++i) out += fmt::format("{}T{}{}", i ? "/" : "", i + 1, read->teachers[i]);
  out += out.empty() ? fmt::format("only S{}", read->view) : fmt::format(" → S{}", read->view);
  return read->arm.empty() ? out : fmt::format("{} ({})", out, read->arm);
}

namespace {

struct PublishedValue {
  std::string name, key;                // of the row; of the column
  std::vector<std::string> qualifiers;  // what tables and rows are told apart by
  double value;
  int64_t line;
  bool used = false;
};

// Lines of three fields without quotes: names, keys and numbers need none.
std::vector<PublishedValue> read_published(const std::string& csv, const std::string& file) {
  std::vector<PublishedValue> out;
  std::set<std::string> seen;
  int64_t number = 0;
  for (std::string line : split(csv, '\n')) {
    ++number;
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) continue;
    const std::vector<std::string> fields = split(line, ',');
    KD_INPUT(fields.size() == 3, "{}: line {} has {} fields, expected name,key,value", file, number, fields.size());
    if (number == 1) {
      KD_INPUT(line == "name,key,value", "{}: line 1 is '{}', expected the header name,key,value", file, line);
      continue;
    }
    PublishedValue entry{fields[0], {}, split(fields[1], '/'), 0, number};
    entry.key = entry.qualifiers.back();
    entry.qualifiers.pop_back();
    const auto [end, error] = std::from_chars(fields[2].data(), fields[2].data() + fields[2].size(), entry.value);
    KD_INPUT(error == std::errc() && end == fields[2].data() + fields[2].size() && std::isfinite(entry.value), "{}: line {}: '{}' is no number", file, number,
             fields[2]);
    KD_INPUT(seen.insert(fields[0] + "," + fields[1]).second, "{}: line {}: {} of {} is there twice", file, number, fields[1], fields[0]);
    out.push_back(std::move(entry));
  }
  KD_INPUT(!out.empty(), "{}: no values; expected lines name,key,value below that header", file);
  return out;
}

// The entry for a cell, the most closely described if several fit; null if none does.
PublishedValue* find_published(std::vector<PublishedValue>& values, const Table& table, const std::vector<Cell>& row, const std::string& name,
                               const std::string& key) {
  PublishedValue* best = nullptr;
  for (PublishedValue& entry : values) {
    if (entry.name != name || entry.key != key) continue;
    const bool fits = std::all_of(entry.qualifiers.begin(), entry.qualifiers.end(), [&](const std::string& word) {
      return std::find(table.tags.begin(), table.tags.end(), word) != table.tags.end() ||
             std::any_of(row.begin(), row.end(), [&](const Cell& cell) { return cell.text == word || cell.text == dashed(word); });
    });
    if (fits && (!best || entry.qualifiers.size() > best->qualifiers.size())) best = &entry;
  }
  return best;
}

}  // namespace

std::string add_published(std::vector<Table>& tables, const std::string& csv, const std::string& file) {
  std::vector<PublishedValue> values;
  if (!file.empty()) values = read_published(csv, file);
  for (Table& table : tables) {
    const auto name = std::find_if(table.columns.begin(), table.columns.end(), [](const Column& c) { return c.key == "name"; });
    if (name == table.columns.end()) continue;
    const auto name_at = size_t(name - table.columns.begin());
    for (size_t c = 0; c < table.columns.size(); ++c) {
      const Column column = table.columns[c];
      if (column.kind == Column::Kind::text || column.key == "seeds") continue;
      std::vector<double> found;
      bool any = column.key == "test_top1_selected";  // what the paper's tables have: there is a place for it even if nothing is known
      for (const auto& row : table.rows) {
        PublishedValue* entry = find_published(values, table, row, row[name_at].text, column.key);
        found.push_back(entry ? entry->value : kNotMeasured);
        if (entry) any = entry->used = true;
      }
      if (!any) continue;
      ++c;
      table.columns.insert(table.columns.begin() + ptrdiff_t(c), Column{column.key + "_published", "published", Column::Kind::number, column.decimals});
      for (size_t r = 0; r < table.rows.size(); ++r) table.rows[r].insert(table.rows[r].begin() + ptrdiff_t(c), Cell(found[r]));
    }
  }
  std::vector<std::string> unused;
  for (const PublishedValue& v : values)
    if (!v.used) unused.push_back(fmt::format("{}", v.line));
  KD_INPUT(values.empty() || unused.size() < values.size(), "{}: none of its values is of a row and column here; the CSV of a table has the keys", file);
  return unused.empty() ? "" : fmt::format("{}: not in these tables: line{} {}", file, unused.size() == 1 ? "" : "s", joined(unused, ", "));
}

}  // namespace kd
