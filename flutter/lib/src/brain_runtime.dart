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

/// [turns] are what was [said], and one more.
bool follows(List<ChatTurn> said, List<ChatTurn> turns) {
  if (turns.length != said.length + 1) return false;
  for (var i = 0; i < said.length; i++) {
    if (turns[i].role != said[i].role || turns[i].content != said[i].content) {
      return false;
    }
  }
  return true;
}

/// A conversation as one question. flutter_gemma takes no turns of others: its chats and sessions alike join what is
/// added before an answer, without a mark between and without a look at who said it.
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
///
/// A chat records its own answers: while a conversation goes on as it was answered here, only its new question is
/// added, as a turn of its own. Any other is given to a new chat as one question ([conversation]).
class GemmaRuntime implements BrainRuntime {
  GemmaRuntime._(this._manifest, this._bundle, this._support);

  static const int _contextTokens = 1024;
  static const int _answerTokens = 256;

  /// What a chat template adds to a turn, generously.
  static const int _turnTokens = 8;

  BrainManifest _manifest;
  final String _bundle;
  AdapterSupport _support;
  InferenceModel? _model;

  /// Has answered [_said], and nothing else. Null: the next conversation begins a new one.
  InferenceChat? _chat;
  List<ChatTurn> _said = const [];

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
    try {
      await runtime._load();
    } on Exception catch (error) {
      throw BrainException(
        'flutter_gemma cannot load $bundle: $error',
        remedy: 'export it again: continuonbrain model export-app',
      );
    }
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
    if (turns.isEmpty) throw const BrainException('nothing was said');
    final asked = List<ChatTurn>.of(turns); // the caller may add to its own
    final BrainManifest manifest = _manifest;
    final InferenceChat? last = _chat;
    _chat = null; // until the answer is whole: one that broke off is not the conversation
    final String all = conversation(asked);
    final InferenceChat chat;
    final String question;
    if (last != null && follows(_said, asked)) {
      chat = last;
      question = asked.last.content;
    } else {
      await last?.close();
      chat = await _newChat();
      question = all;
    }
    var whole = false;
    try {
      final int tokens =
          await chat.session.sizeInTokens(all) + _turnTokens * asked.length;
      if (tokens > _contextTokens - _answerTokens) {
        throw const BrainException(
          'the conversation fills the context',
          remedy: 'begin a new one',
        );
      }
      await chat.addQueryChunk(Message.text(text: question, isUser: true));
      final answered = StringBuffer();
      await for (final ModelResponse piece
          in chat.generateChatResponseAsync()) {
        if (piece is! TextResponse) continue;
        answered.write(piece.token);
        yield piece.token;
      }
      _said = [...asked, ChatTurn.assistant('$answered')];
      whole =
          answered.isNotEmpty &&
          _model != null &&
          identical(manifest, _manifest);
    } finally {
      if (whole) {
        _chat = chat;
      } else {
        await chat.close();
      }
    }
  }

  Future<InferenceChat> _newChat() async {
    final InferenceModel? model = _model;
    if (model == null) throw const BrainException('the runtime is closed');
    if (_support == AdapterSupport.live) {
      try {
        return await _chatOf(model, loraPath: _manifest.adapter);
      } on UnsupportedError {
        _support = AdapterSupport.none;
      }
    }
    return _chatOf(model);
  }

  /// tokenBuffer 0: a full chat would begin anew with its turns joined. [answer] looks before.
  static Future<InferenceChat> _chatOf(
    InferenceModel model, {
    String? loraPath,
  }) => model.createChat(
    topK: 1,
    tokenBuffer: 0,
    loraPath: loraPath,
    maxOutputTokens: _answerTokens,
  );

  /// A merged bundle does not change with the adapter: [capability] goes on saying so.
  @override
  Future<void> reload(AdapterChange change) async {
    _manifest = change.manifest;
    if (_support != AdapterSupport.live) return;
    final InferenceChat? chat = _chat;
    _chat = null;
    await chat?.close();
  }

  @override
  Future<void> close() async {
    final InferenceModel? model = _model;
    _model = null;
    _chat = null;
    await model?.close(); // and its chats
  }
}
