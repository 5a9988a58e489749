import 'package:continuonbrain/continuonbrain.dart';
import 'package:flutter_test/flutter_test.dart';

import 'golden.dart';

void main() {
  test('status', () {
    final status = BrainStatus.fromJson(goldenJson('status.json'));
    expect(status.current, '000003-5c777765');
    expect((status.drivingEngine, status.wordsEngine), ('litert', null));
    expect((status.mode, status.trainingPhase), ('park', ''));
    expect(status.gatesOpen, isFalse);
    expect(status.lastEvent, 11);
    expect(status.problem, isEmpty);
  });

  test('what an older or newer service leaves out or writes otherwise is no error', () {
    final json = goldenJson('status.json')
      ..remove('problem')
      ..['control'] = {'mode': 7};
    expect(BrainStatus.fromJson(json).problem, isEmpty);
    expect(BrainStatus.fromJson(json).mode, isEmpty);
    final event = BrainEvent.fromJson({
      'sequence': 1,
      'kind': 'safety',
      'at_unix_s': 1,
      'data': {'stopped': 'yes', 'reasons': 'none', 'closed': []},
    });
    expect(event.stopped, isFalse);
    expect(event.reasons, isEmpty);
    expect(event.closed, isEmpty);
    expect(
      () => BrainStatus.fromJson({'engines': []}),
      throwsA(isA<BrainException>()),
    );
  });

  test('a conversation is one question for flutter_gemma', () {
    expect(conversation([const ChatTurn.user('hello')]), 'hello');
    expect(
      conversation([
        const ChatTurn.user('hello'),
        const ChatTurn.assistant('yes?'),
        const ChatTurn.user('who are you'),
      ]),
      'User: hello\nAssistant: yes?\nUser: who are you',
    );
  });

  test('a chat goes on only with what it has answered itself', () {
    const said = [ChatTurn.user('hello'), ChatTurn.assistant('yes?')];
    expect(follows(said, [...said, const ChatTurn.user('go')]), isTrue);
    expect(follows(const [], [const ChatTurn.user('go')]), isTrue);
    for (final turns in [
      said,
      [...said, ...said, const ChatTurn.user('go')],
      [said.first, const ChatTurn.assistant('no?'), const ChatTurn.user('go')],
      [said.first, const ChatTurn.user('yes?'), const ChatTurn.user('go')],
      const <ChatTurn>[],
    ]) {
      expect(follows(said, turns), isFalse);
    }
  });

  test('numbers that are none in Dart are named, and no Error', () {
    for (final (String at, String words) in [
      ('"sequence": 1e999, "at_unix_s": 1', 'sequence'),
      ('"sequence": 1, "at_unix_s": 1e999', 'at_unix_s'),
      ('"sequence": 1, "at_unix_s": 1e300', 'at_unix_s'),
    ]) {
      expect(
        () => BrainEvent.fromJson(
          jsonObject('{$at, "kind": "gate", "data": {}}', 'an event'),
        ),
        throwsA(
          isA<BrainException>().having(
            (BrainException e) => e.message,
            'message',
            contains(words),
          ),
        ),
      );
    }
  });

  test('adapters', () {
    final adapters = [
      for (final Object? a
          in goldenJson('adapters.json')['adapters']! as List<Object?>)
        BrainAdapter.fromJson(a! as Map<String, Object?>),
    ];
    expect(adapters.first.slots, ['current']);
    expect([for (final a in adapters) a.passed], [true, null]);
    expect(adapters.first.damaged, isEmpty);
    expect(adapters.last.damaged, contains('staged'));
    final older = BrainAdapter.fromJson(const {
      'id': '000001-aa',
      'sha256': 'aa',
      'slots': <Object?>[],
      'passed': null,
    });
    expect(older.damaged, isEmpty);
  });

  test('a decision', () {
    final decision = BrainDecision.fromJson(goldenJson('act.json'));
    expect(decision.curvaturePerM, hasLength(decision.atM.length));
    expect(decision.speedMps, [0.8, 0.9]);
    expect(decision.adapterSha256, isEmpty);
  });

  test('what is asked is what the service takes', () {
    final request = goldenJson('chat_request.json');
    expect(request['messages'], [const ChatTurn.user('hello').toJson()]);
  });

  test('a problem becomes an exception with its remedy', () {
    final error = BrainException.ofAnswer(409, golden('problem.json'));
    expect(error.status, 409);
    expect(error.toString(), contains('talk to a Gemma 3n folder'));
    expect(BrainException.ofAnswer(502, '<html>').message, contains('502'));
    expect(BrainException.ofAnswer(500, '[1]').message, contains('500'));
  });
}
