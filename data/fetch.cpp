#include "data/fetch.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <thread>
#include <vector>

#include "data/archive.h"
#include "data/checksum.h"
#include "data/cifar.h"
#include "engine/base/check.h"

namespace kd {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxUnpacked = int64_t(1) << 30;  // CIFAR unpacks to 185 MB
constexpr int kMaxRounds = 20;                      // of continuing a download that breaks off but grows
enum CurlExit { kHttpError = 22, kNoRanges = 33, kNotFound = 127 };

int64_t size_or_zero(const Path& path) {
  std::error_code code;
  const auto size = fs::file_size(path, code);
  return code ? 0 : int64_t(size);
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  return text;
}

// The whole file's size as the last answer's headers tell it: "content-range: bytes 5-9/10", else "content-length: 10"; 0 if they do not.
int64_t announced_size(const Path& headers) {
  if (size_or_zero(headers) == 0) return 0;
  std::istringstream lines(read_text(headers));
  int64_t length = 0, range = 0;
  for (std::string line; std::getline(lines, line);) {
    line = lower(line);
    if (line.rfind("http/", 0) == 0) length = range = 0;  // an answer after a redirection
    if (line.rfind("content-length:", 0) == 0) length = std::atoll(line.c_str() + 15);
    if (const size_t slash = line.find('/'); line.rfind("content-range:", 0) == 0 && slash != line.npos) range = std::atoll(line.c_str() + slash + 1);
  }
  return std::max<int64_t>(range > 0 ? range : length, 0);
}

struct CurlResult {
  int exit;
  std::string message;  // curl's own last line
};

CurlResult run_curl(const std::string& url, const Path& part, const FetchOptions& options) {
  const Path headers = Path(part) += ".headers";
  std::vector<std::string> words{"curl",
                                 "--fail",
                                 "--silent",
                                 "--show-error",
                                 "--location",
                                 "--proto",
                                 "=http,https",
                                 "--proto-redir",
                                 "=http,https",
                                 "--connect-timeout",
                                 "30",
                                 "--speed-time",
                                 "60",
                                 "--speed-limit",
                                 "1",  // a connection that gives nothing for a minute is dead
                                 "--continue-at",
                                 "-",
                                 "--dump-header",
                                 headers.string(),
                                 "--output",
                                 part.string(),
                                 "--url",
                                 url};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  ::signal(SIGCHLD, SIG_DFL);  // where it is ignored, as a parent may have left it, how curl ended could not be asked
  int errors[2];
  KD_INPUT(::pipe(errors) == 0, "cannot start curl: {}", std::strerror(errno));
  const pid_t child = ::fork();
  KD_INPUT(child >= 0, "cannot start curl: {}", std::strerror(errno));
  if (child == 0) {                      // between fork and exec only what is allowed beside other threads
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);  // so that no curl goes on writing when this process is killed
    ::dup2(errors[1], STDERR_FILENO);
    ::close(errors[0]);
    ::execvp(argv[0], argv.data());
    ::_exit(errno == ENOENT ? kNotFound : 126);
  }
  ::close(errors[1]);
  int status = 0;
  pid_t ended = 0;
  while ((ended = ::waitpid(child, &status, WNOHANG)) == 0) {
    options.progress(size_or_zero(part), announced_size(headers));
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  KD_INPUT(ended == child, "cannot tell how curl ended: {}", std::strerror(errno));
  options.progress(size_or_zero(part), announced_size(headers));
  CurlResult result{.exit = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), .message = {}};
  char buffer[4096];
  for (ssize_t got; (got = ::read(errors[0], buffer, sizeof(buffer))) > 0;) result.message.append(buffer, size_t(got));
  ::close(errors[0]);
  while (!result.message.empty() && result.message.back() == '\n') result.message.pop_back();
  result.message = result.message.substr(result.message.rfind('\n') + 1);
  std::error_code ignored;
  fs::remove(headers, ignored);
  return result;
}

void download(const std::string& url, const Path& part, const FetchOptions& options) {
  for (int round = 0; round < kMaxRounds; ++round) {
    const int64_t before = size_or_zero(part);
    const CurlResult curl = run_curl(url, part, options);
    if (curl.exit == 0) return;
    KD_INPUT(curl.exit != kNotFound, "curl is not installed; install it (Debian: apt install curl), or download {} by other means to {} and run this again",
             url, part.parent_path().string());
    // The server cannot continue a download, or has nothing from here on (416): what is there is not the beginning of this file.
    const bool no_such_range = curl.exit == kNoRanges || (curl.exit == kHttpError && curl.message.find(" 416") != curl.message.npos);
    if (no_such_range && before > 0) {
      fs::remove(part);
      continue;
    }
    const int64_t now = size_or_zero(part);
    KD_INPUT(now > before, "{}: download failed: {}; {}", url, curl.message.empty() ? fmt::format("curl ended with {}", curl.exit) : curl.message,
             now > 0 ? fmt::format("run this again to go on at byte {}, or give a mirror with --url", now) : "check the address, or give a mirror with --url");
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
  throw Error(fmt::format("{}: the connection broke off {} times; run this again to go on, or give a mirror with --url", url, kMaxRounds));
}

// The last part of the URL's path, which names the file here too.
std::string file_of(const std::string& url) {
  const std::string path = url.substr(0, url.find_first_of("?#"));
  std::string name = path.substr(path.rfind('/') + 1);
  const bool plain = !name.empty() && name[0] != '.' &&
                     std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) || c == '.' || c == '-' || c == '_'; });
  KD_INPUT(plain && path.find("://") != path.npos, "--url: '{}' does not end in a file name, e.g. https://host/cifar-100-binary.tar.gz", url);
  return name;
}

struct RemoveAtExit {
  Path path;
  ~RemoveAtExit() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

Path unpack(const Path& archive, const Path& root, const std::vector<CifarArchive>& known) {
  // In a folder beside the final one, so that the last step is one rename.
  const RemoveAtExit staging{root / (archive.filename().string() + ".unpacking")};
  fs::remove_all(staging.path);
  make_directories(staging.path);
  unpack_tar_gz(archive, staging.path, kMaxUnpacked);
  for (const CifarArchive& one : known) {
    const Path made = staging.path / one.folder, wanted = root / one.folder;
    if (!fs::is_directory(made)) continue;
    std::error_code code;
    fs::rename(made, wanted, code);
    KD_INPUT(!code, "{}: cannot rename from {}: {}", wanted.string(), made.string(), code.message());
    return wanted;
  }
  throw Error(fmt::format("{}: holds neither {} nor {}; is it the archive of another dataset?", archive.string(), known[0].folder, known[1].folder));
}

}  // namespace

Fetched fetch_dataset(const FetchOptions& options) {
  KD_INPUT(options.name == "cifar10" || options.name == "cifar100", "data fetch: '{}' cannot be fetched; cifar10 and cifar100 can", options.name);
  KD_INPUT(!options.root.empty(), "data fetch: --root: give the folder to put the files in");
  const std::vector<CifarArchive> known = cifar_archives(options.name == "cifar10" ? 10 : 100);
  for (const CifarArchive& one : known)
    if (fs::exists(options.root / one.folder)) return {.folder = options.root / one.folder, .was_there = true};

  const std::string url = options.url.empty() ? known[0].url : options.url, file = file_of(url);
  std::string md5 = lower(options.md5);
  for (const CifarArchive& one : known)
    if (md5.empty() && one.file == file) md5 = one.md5;
  KD_INPUT(!md5.empty(), "{}: not the name of an official archive ({} or {}), so its checksum is unknown; give it with --md5", file, known[0].file,
           known[1].file);
  KD_INPUT(md5.size() == 32 && md5.find_first_not_of("0123456789abcdef") == md5.npos, "--md5: '{}' is not 32 hexadecimal digits", options.md5);

  make_directories(options.root);
  const Path archive = options.root / file, part = options.root / (file + ".part");
  Fetched fetched;
  if (fs::exists(archive)) {
    const std::string found = md5_of_file(archive);
    KD_INPUT(found == md5, "{}: its md5 is {}, not {}; remove it to download it again", archive.string(), found, md5);
  } else {
    // What was begun earlier, perhaps from another mirror or by a program that wrote nonsense, gets one chance to be continued.
    for (bool fresh = size_or_zero(part) == 0;; fresh = true) {
      const bool complete = !fresh && md5_of_file(part) == md5;
      if (!complete) download(url, part, options);
      const std::string found = complete ? md5 : md5_of_file(part);
      if (found == md5) break;
      fs::remove(part);
      KD_INPUT(!fresh, "{}: what came has md5 {}, not {}; it was removed. Try again, or another mirror with --url", url, found, md5);
    }
    std::error_code code;
    fs::rename(part, archive, code);
    KD_INPUT(!code, "{}: cannot rename from {}: {}", archive.string(), part.string(), code.message());
    fetched.downloaded = true;
  }
  fetched.folder = unpack(archive, options.root, known);
  return fetched;
}

}  // namespace kd
