import 'dart:async';
import 'dart:io';

import 'package:flutter_gemma/flutter_gemma.dart';
import 'package:flutter_gemma_litertlm/flutter_gemma_litertlm.dart';

import 'brain_client.dart';
import 'brain_exception.dart';
import 'brain_listener.dart';
import 'brain_manifest.dart';
import 'brain_models.dart';

/// What answers, for the user interface to say.
enum BrainCapability {
  /// With the adapter in use, always.
  liveAdapter,

  /// With the adapter that the bundle was exported with.
  mergedAdapter,

  /// The base alone: what the robot has learned is not in the answers.
  baseAlone,
}

/// Something that answers in words.
abstract interface class BrainRuntime {
  BrainCapability get capability;

  /// Pieces of the answer to a conversation that ends with the user.
  Stream<String> answer(List<ChatTurn> turns);

  /// Another adapter is in use.
  Future<void> reload(AdapterChange change);

  Future<void> close();
}

/// The best that this platform can do, in this order: the service (it always knows the adapter in use), flutter_gemma
/// with the adapter, a merged bundle, the base alone. Throws [BrainException] when nothing can be had.
Future<BrainRuntime> openRuntime(BrainManifest manifest) async {
  final String? socket = manifest.serviceSocket;
  if (socket != null) {
    final client = BrainClient(socket);
    try {
      if ((await client.status()).wordsEngine != null) {
        return ServiceRuntime(client);
      }
    } on BrainException {
      // It does not run.
    } on IOException {
      // It has ended in the middle of an answer.
    }
    client.close();
  }
  return GemmaRuntime.open(manifest);
}

/// A conversation as one question: a session of flutter_gemma joins the chunks that it is given, without a mark between.
String conversation(List<ChatTurn> turns) => turns.length == 1
    ? turns.single.content
    : [
        for (final ChatTurn turn in turns)
          '${turn.role == 'user' ? 'User' : 'Assistant'}: ${turn.content}',
      ].join('\n');

/// Answers of the brain's own service.
class ServiceRuntime implements BrainRuntime {
  ServiceRuntime(this._client);

  final BrainClient _client;

  @override
  BrainCapability get capability => BrainCapability.liveAdapter;

  /// Why the last answer came without the adapter in use; empty when it came with it.
  String note = '';

  @override
  Stream<String> answer(List<ChatTurn> turns) =>
      _client.chat(turns, onNote: (String told) => note = told);

  /// The service follows by itself.
  @override
  Future<void> reload(AdapterChange change) async {}

  @override
  Future<void> close() async => _client.close();
}

/// Answers of flutter_gemma in the app itself.
///
/// The adapter is given to it only when the manifest says that the bundle takes one: others ignore it without a word.
/// flutter_gemma 1.6 throws [UnsupportedError] for an adapter of a `.litertlm` bundle; then, and for all other bundles,
/// this is the merged adapter or the base alone. [capability] says which.
class GemmaRuntime implements BrainRuntime {
  GemmaRuntime._(this._manifest, this._bundle, this._support);

  static const int _contextTokens = 1024;
  static const int _answerTokens = 256;

  BrainManifest _manifest;
  final String _bundle;
  AdapterSupport _support;
  InferenceModel? _model;

  /// Throws [BrainException] when the manifest names no bundle for flutter_gemma.
  static Future<GemmaRuntime> open(BrainManifest manifest) async {
    final String name = manifest.paths.containsKey('merged_bundle')
        ? 'merged_bundle'
        : 'plain_bundle';
    final String? bundle = manifest.paths[name];
    if (bundle == null) {
      throw const BrainException(
        'neither the service nor a bundle for flutter_gemma can be had',
        remedy:
            'start `continuonbrain serve`, or export one: continuonbrain model export-app',
      );
    }
    final runtime = GemmaRuntime._(
      manifest,
      bundle,
      manifest.capabilities[name]?.adapter ?? AdapterSupport.none,
    );
    await runtime._load();
    return runtime;
  }

  Future<void> _load() async {
    await FlutterGemma.initialize(inferenceEngines: [LiteRtLmEngine()]);
    await FlutterGemma.installModel(
      modelType: ModelType.gemmaIt,
      fileType: ModelFileType.litertlm,
    ).fromFile(_bundle).install();
    _model = await FlutterGemma.getActiveModel(
      maxTokens: _contextTokens,
      preferredBackend: PreferredBackend.cpu,
    );
  }

  @override
  BrainCapability get capability => switch (_support) {
    AdapterSupport.live => BrainCapability.liveAdapter,
    AdapterSupport.merged => BrainCapability.mergedAdapter,
    AdapterSupport.none => BrainCapability.baseAlone,
  };

  @override
  Stream<String> answer(List<ChatTurn> turns) async* {
    final InferenceModelSession session = await _session();
    try {
      await session.addQueryChunk(
        Message.text(text: conversation(turns), isUser: true),
      );
      yield* session.getResponseAsync();
    } finally {
      await session.close();
    }
  }

  Future<InferenceModelSession> _session() async {
    final InferenceModel? model = _model;
    if (model == null) throw const BrainException('the runtime is closed');
    if (_support == AdapterSupport.live) {
      try {
        return await model.createSession(
          topK: 1,
          loraPath: _manifest.adapter,
          maxOutputTokens: _answerTokens,
        );
      } on UnsupportedError {
        _support = AdapterSupport.none;
      }
    }
    return model.createSession(topK: 1, maxOutputTokens: _answerTokens);
  }

  /// A merged bundle does not change with the adapter: [capability] goes on saying so.
  @override
  Future<void> reload(AdapterChange change) async {
    _manifest = change.manifest;
  }

  @override
  Future<void> close() async {
    await _model?.close();
    _model = null;
  }
}
