import 'dart:convert';
import 'dart:io';

import 'package:continuonbrain/continuonbrain.dart';
import 'package:flutter_test/flutter_test.dart';

import 'golden.dart';

void main() {
  late Directory root;
  late File manifest;

  void use(String version) {
    final link = Link('${root.path}/current');
    if (link.existsSync()) link.deleteSync();
    if (version.isNotEmpty) link.createSync('versions/$version');
    // As the brain does: written beside it, moved into place, touched.
    final text = jsonEncode(
      goldenJson('manifest.json')
        ..['paths'] = {
          'base_model': root.path,
          'adapter_dir': link.path,
          'adapter': '${link.path}/lora_adapters.pt',
          'service': '${root.path}/service.sock',
        },
    );
    File('${root.path}/.new').writeAsStringSync(text);
    File('${root.path}/.new').renameSync(manifest.path);
    manifest.setLastModifiedSync(DateTime.now());
  }

  setUp(() {
    root = Directory.systemTemp.createTempSync('brain');
    manifest = File('${root.path}/manifest.json');
    use('');
  });

  tearDown(() => root.deleteSync(recursive: true));

  test('without a service the manifest tells of every change once', () async {
    final listener = BrainListener(
      manifest.path,
      debounce: const Duration(milliseconds: 50),
    );
    await listener.start();
    final seen = <String>[];
    listener.changes.listen((AdapterChange c) => seen.add(c.versionId));
    for (final version in ['000001-aa', '000001-aa', '000002-bb', '']) {
      use(version);
      await Future<void>.delayed(const Duration(milliseconds: 300));
    }
    expect(seen, ['000001-aa', '000002-bb', '']);
    await listener.close();
  });

  test('with a service its events tell, also after it was away', () async {
    final socket = InternetAddress(
      '${root.path}/service.sock',
      type: InternetAddressType.unix,
    );
    final asked = <String?>[];
    Future<HttpServer> serve(int from) async {
      final server = await HttpServer.bind(socket, 0);
      server.listen((HttpRequest request) async {
        final answer = request.response;
        if (request.uri.path == '/v1/status') {
          answer.write(golden('status.json'));
          await answer.close();
          return;
        }
        asked.add(request.headers.value('last-event-id'));
        answer.headers.contentType = ContentType('text', 'event-stream');
        answer.bufferOutput = false;
        answer.write(
          'event: promotion\nid: $from\ndata: {"sequence": $from, "kind": "promotion", '
          '"at_unix_s": 1, "data": {"version_id": "x", "sha256": ""}}\n\n',
        );
      });
      return server;
    }

    final first = await serve(12);
    final listener = BrainListener(
      manifest.path,
      debounce: const Duration(milliseconds: 50),
    );
    await listener.start();
    final seen = <int>[];
    listener.events.listen((BrainEvent e) => seen.add(e.sequence));
    await Future<void>.delayed(const Duration(milliseconds: 500));
    await first.close(force: true);
    File(socket.address).deleteSync();
    final second = await serve(13);
    await Future<void>.delayed(const Duration(seconds: 2));
    expect(seen, [12, 13]);
    expect(asked, ['11', '12']);
    await listener.close();
    await second.close(force: true);
  });

  /// A service that writes [stream] to whoever listens, then holds still.
  Future<(HttpServer, List<String?>)> serve(
    String stream, {
    String status = '',
  }) async {
    final server = await HttpServer.bind(
      InternetAddress(
        '${root.path}/service.sock',
        type: InternetAddressType.unix,
      ),
      0,
    );
    final asked = <String?>[];
    server.listen((HttpRequest request) async {
      final answer = request.response;
      if (request.uri.path == '/v1/status') {
        answer.write(status.isEmpty ? golden('status.json') : status);
        await answer.close();
        return;
      }
      asked.add(request.headers.value('last-event-id'));
      answer.headers.contentType = ContentType('text', 'event-stream');
      answer.bufferOutput = false;
      answer.write(stream);
    });
    return (server, asked);
  }

  String event(int number) =>
      'event: gate\nid: $number\ndata: {"sequence": $number, "kind": "gate", '
      '"at_unix_s": 1, "data": {}}\n\n';

  const reset = 'event: reset\nid: 0\ndata: {"after": 12, "next": 1}\n\n';

  for (final (String stream, List<int> told, String next) in [
    ('${event(12)}$reset${event(1)}', [12, 1], '1'),
    ('${event(12)}$reset', [12], '0'),
    ('$reset${event(1)}', [1], '1'),
  ]) {
    test('numbers that begin anew are followed: $told, then $next', () async {
      final (first, _) = await serve(stream);
      final listener = BrainListener(manifest.path);
      final seen = <int>[];
      listener.events.listen((BrainEvent e) => seen.add(e.sequence));
      await listener.start();
      await Future<void>.delayed(const Duration(milliseconds: 500));
      await first.close(force: true);
      File('${root.path}/service.sock').deleteSync();
      final (second, asked) = await serve('');
      await Future<void>.delayed(const Duration(seconds: 2));
      expect(seen, told);
      expect(asked, [next]);
      await listener.close();
      await second.close(force: true);
    });
  }

  test('an event of another shape is skipped, and the listener goes on', () async {
    final (server, _) = await serve(
      'event: gate\ndata: [1]\n\n'
      'event: gate\ndata: {"sequence": "x"}\n\n'
      'event: gate\ndata: {"sequence": 12, "kind": 7, "at_unix_s": 1e999, "data": {}}\n\n'
      '${event(13)}',
    );
    final listener = BrainListener(manifest.path);
    final seen = <int>[];
    listener.events.listen((BrainEvent e) => seen.add(e.sequence));
    await listener.start();
    await Future<void>.delayed(const Duration(milliseconds: 500));
    expect(seen, [13]);
    await listener.close();
    await server.close(force: true);
  });

  test('while the status has another shape the manifest tells', () async {
    final (server, asked) = await serve('', status: '{"last_event": []}');
    final listener = BrainListener(
      manifest.path,
      debounce: const Duration(milliseconds: 50),
    );
    final seen = <String>[];
    listener.changes.listen((AdapterChange c) => seen.add(c.versionId));
    await listener.start();
    use('000001-aa');
    await Future<void>.delayed(const Duration(milliseconds: 500));
    expect(seen, ['000001-aa']);
    expect(asked, isEmpty);
    await listener.close();
    await server.close(force: true);
  });

  test('a closed listener asks no more, also one closed as it starts', () async {
    final (server, asked) = await serve('');
    final listener = BrainListener(manifest.path);
    final starting = listener.start();
    await listener.close();
    await starting;
    final another = BrainListener(manifest.path);
    await another.start();
    await another.close();
    await Future<void>.delayed(const Duration(milliseconds: 500));
    expect(asked, isEmpty);
    await server.close(force: true);
  });

  test('an answer that breaks off, and a closed client, are told', () async {
    final server = await ServerSocket.bind(
      InternetAddress(
        '${root.path}/service.sock',
        type: InternetAddressType.unix,
      ),
      0,
    );
    server.listen((Socket socket) {
      socket.listen((_) async {
        socket.write('HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{');
        await socket.flush();
        socket.destroy();
      });
    });
    final client = BrainClient('${root.path}/service.sock');
    await expectLater(client.status(), throwsA(isA<BrainException>()));
    client.close();
    await expectLater(client.status(), throwsA(isA<BrainException>()));
    await server.close();
  });
}
