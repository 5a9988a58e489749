import 'dart:async';
import 'dart:convert';
import 'dart:io';
import 'dart:typed_data';

import 'brain_event.dart';
import 'brain_exception.dart';
import 'brain_manifest.dart';
import 'brain_models.dart';
import 'server_sent_events.dart';

/// The brain's service on its Unix socket (`paths.service` of the manifest).
class BrainClient {
  BrainClient(this.socketPath) : _http = HttpClient() {
    _http
      ..connectionTimeout = const Duration(seconds: 5)
      // An http_proxy of the environment is for other hosts.
      ..findProxy = ((Uri _) => 'DIRECT')
      ..connectionFactory = (Uri _, String? _, int? _) => Socket.startConnect(
        InternetAddress(socketPath, type: InternetAddressType.unix),
        0,
      );
  }

  /// One bad byte must not end a stream.
  static const Utf8Decoder _text = Utf8Decoder(allowMalformed: true);

  final String socketPath;
  final HttpClient _http;
  bool _closed = false;

  Future<BrainStatus> status() async =>
      BrainStatus.fromJson(await _json('GET', '/v1/status'));

  Future<BrainManifest> manifest() async =>
      BrainManifest.fromJson(await _json('GET', '/v1/manifest'));

  /// Every adapter, oldest first.
  Future<List<BrainAdapter>> adapters() async {
    final Map<String, Object?> json = await _json('GET', '/v1/adapters');
    return [
      for (final Object? a in field<List<Object?>>(json, 'adapters'))
        if (a is Map<String, Object?>) BrainAdapter.fromJson(a),
    ];
  }

  /// Decide on a JPEG or PNG. It moves nothing.
  Future<BrainDecision> act({
    required String instruction,
    required Uint8List frame,
    double? speedMps,
  }) async => BrainDecision.fromJson(
    await _json('POST', '/v1/act', {
      'instruction': instruction,
      'frame': base64Encode(frame),
      'speed_mps': speedMps,
    }),
  );

  /// The answer to a conversation that ends with the user, piece by piece, with the current adapter.
  ///
  /// Behind it [onNote] is told why the current adapter could not be used; empty when it was.
  Stream<String> chat(
    List<ChatTurn> turns, {
    int maxTokens = 256,
    double temperature = 0,
    void Function(String note)? onNote,
  }) async* {
    final HttpClientResponse answer = await _send('POST', '/v1/chat', {
      'messages': [for (final ChatTurn turn in turns) turn.toJson()],
      'max_tokens': maxTokens,
      'temperature': temperature,
      'stream': true,
    });
    var done = false;
    try {
      await for (final ServerSentEvent event in _events(answer)) {
        if (event.event == 'piece') {
          yield field<String>(jsonObject(event.data, 'a piece'), 'text');
        } else if (event.event == 'done') {
          done = true;
          onNote?.call(field<String>(jsonObject(event.data, 'the end'), 'note'));
        }
      }
    } on IOException {
      // Told below.
    }
    if (!done) throw const BrainException('the answer broke off', remedy: 'ask again');
  }

  /// Events behind number [after], or from now on, until the connection ends.
  ///
  /// A gap is told by [onGap]: what went missing must be read anew. [onReset]: so it must, and the numbers began anew.
  Stream<BrainEvent> events({
    int? after,
    void Function()? onGap,
    void Function()? onReset,
  }) async* {
    final HttpClientResponse answer = await _send(
      'GET',
      '/v1/events',
      null,
      after == null ? const {} : {'last-event-id': '$after'},
    );
    await for (final ServerSentEvent event in _events(answer)) {
      if (event.event == 'reset') {
        (onReset ?? onGap)?.call();
        continue;
      }
      if (event.event == 'gap') {
        onGap?.call();
        continue;
      }
      final BrainEvent told;
      try {
        told = BrainEvent.fromJson(jsonObject(event.data, 'an event'));
      } on BrainException {
        onGap?.call(); // it cannot be read: asking again would bring it again
        continue;
      }
      yield told;
    }
  }

  void close() {
    _closed = true;
    _http.close(force: true);
  }

  Stream<ServerSentEvent> _events(HttpClientResponse answer) =>
      parseServerSentEvents(
        answer.transform(_text).transform(const LineSplitter()),
      );

  Future<Map<String, Object?>> _json(
    String method,
    String path, [
    Map<String, Object?>? body,
  ]) async {
    final HttpClientResponse answer = await _send(method, path, body);
    try {
      return jsonObject(await answer.transform(_text).join(), path);
    } on IOException catch (error) {
      throw BrainException('the service broke off: $error');
    }
  }

  Future<HttpClientResponse> _send(
    String method,
    String path, [
    Map<String, Object?>? body,
    Map<String, String> headers = const {},
  ]) async {
    // HttpClient throws a StateError, which is no exception.
    if (_closed) throw const BrainException('the client is closed');
    try {
      final HttpClientRequest request = await _http.openUrl(
        method,
        Uri(scheme: 'http', host: 'brain', path: path),
      );
      headers.forEach(request.headers.set);
      if (body != null) {
        request.headers.contentType = ContentType.json;
        request.write(jsonEncode(body));
      }
      final HttpClientResponse answer = await request.close();
      if (answer.statusCode == HttpStatus.ok) return answer;
      throw BrainException.ofAnswer(
        answer.statusCode,
        await answer.transform(_text).join(),
      );
    } on SocketException catch (error) {
      throw BrainException(
        'no service at $socketPath: ${error.osError?.message ?? error.message}',
        remedy: 'start it: continuonbrain serve',
      );
    } on HttpException catch (error) {
      throw BrainException('the service broke off: ${error.message}');
    }
  }
}
