// Generates jets with a file of `pcdiff export`: generate_jets gluon30.onnx [noise of 2 x 30 x 3 float32, to compare with Python]
// As in a framework: one environment and one session for the job, inputs and outputs by name.
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <random>
#include <vector>

int main(int argc, char** argv) try {
  if (argc != 2 && argc != 3) {
    std::fprintf(stderr, "usage: generate_jets FILE.onnx [NOISE]\n");
    return 2;
  }
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "generate_jets");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);  // a framework shares the cores among events itself
  Ort::Session session(env, argv[1], options);

  // Jets of gluon30: pt [GeV], eta, mass [GeV] and num_constituents, in the order of the metadata "features"; and how many are made.
  std::vector<std::array<float, 4>> jets = {{1050.f, 0.3f, 95.f, 62.f}, {980.f, -0.9f, 55.f, 24.f}};
  std::vector<float> counts = {30.f, 24.f};
  const std::int64_t clouds = jets.size(), points = 30, width = 3;

  std::vector<float> noise(clouds * points * width);
  std::mt19937_64 engine(7);
  std::normal_distribution<float> normal;
  for (float& value : noise) value = normal(engine);
  if (argc == 3) {
    std::ifstream file(argv[2], std::ios::binary);
    if (!file.read(reinterpret_cast<char*>(noise.data()), noise.size() * sizeof(float))) {
      std::fprintf(stderr, "generate_jets: %s: expected %zu numbers of float32\n", argv[2], noise.size());
      return 2;
    }
  }

  const std::array<std::int64_t, 3> shape = {clouds, points, width};
  const std::array<std::int64_t, 2> features_shape = {clouds, 4};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::array<Ort::Value, 3> inputs = {
      Ort::Value::CreateTensor<float>(memory, noise.data(), noise.size(), shape.data(), shape.size()),
      Ort::Value::CreateTensor<float>(memory, counts.data(), counts.size(), &clouds, 1),
      Ort::Value::CreateTensor<float>(memory, jets[0].data(), 4 * jets.size(), features_shape.data(), 2)};
  const std::array<const char*, 3> input_names = {"noise", "counts", "features"};
  const char* output_name = "points";
  auto outputs = session.Run(Ort::RunOptions{nullptr}, input_names.data(), inputs.data(), inputs.size(), &output_name, 1);

  const float* point = outputs[0].GetTensorData<float>();  // (clouds, points, 3); the mask is k < counts[i]
  for (std::int64_t i = 0; i < clouds; ++i) {
    std::printf("jet %d: pt %.1f GeV; etarel, phirel, ptrel of its constituents\n", static_cast<int>(i), jets[i][0]);
    for (std::int64_t k = 0; k < points; ++k, point += width)
      if (k < counts[i]) std::printf("%11.8f %11.8f %.8g\n", point[0], point[1], point[2]);
  }
} catch (const Ort::Exception& error) {
  std::fprintf(stderr, "generate_jets: %s\n", error.what());
  return 1;
}
